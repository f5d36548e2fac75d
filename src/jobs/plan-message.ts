/** What is known of a run before its first step, as the contract tells it. */
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import type { MemoryEstimate, MemorySuggestion, TrainingEstimate } from '../engine/engine.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { MemoryPlan, TrainingPlan, TrainingSuggestion } from '../gen/luthier/v1/training_service.ts';

const memoryMessage = (memory: MemoryEstimate): MemoryPlan =>
  MemoryPlan.fromPartial({ ...memory, freeBytes: memory.freeBytes ?? undefined });

/** The plan of a run over the examples. */
export function planMessage(
  estimate: TrainingEstimate,
  { template }: Pick<PreparedExamples, 'template'>,
  baseModelHash: string,
): TrainingPlan {
  return TrainingPlan.create({
    maxSteps: estimate.maxSteps,
    examples: estimate.examples,
    evalExamples: estimate.evalExamples,
    tokens: estimate.tokens,
    labelTokens: estimate.labelTokens,
    trainableParameters: estimate.trainableParameters,
    targetModules: [...estimate.targetModules],
    template: template === null ? undefined : { ...template },
    baseModelHash,
    memory: memoryMessage(estimate.memory),
    packing: estimate.packing === null ? undefined : { ...estimate.packing },
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
