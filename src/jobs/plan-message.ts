/** What is known of a run before its first step, as the contract tells it. */
import { countOf } from '../datasets/example-collector.ts';
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import { learnedLabels } from '../datasets/tokenize-examples.ts';
import type { MemoryEstimate, MemorySuggestion, TokenExamples, TrainingEstimate } from '../engine/engine.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { MemoryPlan, TrainingPlan, TrainingSuggestion } from '../gen/luthier/v1/training_service.ts';

/** Labels that are learned: those after each example's first position. */
function labelTokens(examples: TokenExamples): number {
  const { labels, offsets } = examples;
  let count = 0;
  for (let index = 0; index < countOf(examples); index++) {
    count += learnedLabels(labels.subarray(offsets[index], offsets[index + 1]));
  }
  return count;
}

const memoryMessage = (memory: MemoryEstimate): MemoryPlan =>
  MemoryPlan.fromPartial({ ...memory, freeBytes: memory.freeBytes ?? undefined });

/** The plan of a run over the examples. */
export function planMessage(
  estimate: TrainingEstimate,
  { train, evaluation, template }: PreparedExamples,
  baseModelHash: string,
): TrainingPlan {
  return TrainingPlan.create({
    maxSteps: estimate.maxSteps,
    examples: countOf(train),
    evalExamples: evaluation === null ? 0 : countOf(evaluation),
    tokens: train.inputIds.length,
    labelTokens: labelTokens(train),
    trainableParameters: estimate.trainableParameters,
    targetModules: [...estimate.targetModules],
    template: template === null ? undefined : { ...template },
    baseModelHash,
    memory: memoryMessage(estimate.memory),
  });
}

/** A suggestion of the engine. */
export const suggestionMessage = (suggestion: MemorySuggestion): TrainingSuggestion =>
  TrainingSuggestion.fromPartial({
    description: suggestion.description,
    totalBytes: suggestion.totalBytes,
    recomputeLayers: suggestion.recomputeLayers ?? undefined,
    offloadActivations: suggestion.offloadActivations,
    perDeviceTrainBatchSize: suggestion.perDeviceTrainBatchSize ?? undefined,
    gradientAccumulationSteps: suggestion.gradientAccumulationSteps ?? undefined,
    perDeviceEvalBatchSize: suggestion.perDeviceEvalBatchSize ?? undefined,
    loadIn: suggestion.loadIn4bit ? LoadIn.LOAD_IN_4BIT : LoadIn.LOAD_IN_UNSPECIFIED,
    maxSeqLength: suggestion.maxSeqLength ?? undefined,
  });
