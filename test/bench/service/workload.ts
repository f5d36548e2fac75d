/** The training that is measured: the same ids and settings for the engine alone and for a server. */
import type { TokenExamples } from '../../../src/engine/engine.ts';
import { TrainingSpec } from '../../../src/gen/luthier/v1/training_service.ts';

/** The shape of a training. */
export interface Shape {
  readonly batch: number;
  /** Tokens of each example. */
  readonly length: number;
  readonly steps: number;
}

/** Ids below this are in the vocabulary of every model that the benchmark is meant for. */
const IDS = 49_152;

/** Arbitrary ids, the same ones every time: the classic linear congruential generator of Numerical Recipes, its upper bits. */
function arbitraryIds(count: number): Uint32Array {
  let state = 42;
  return Uint32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * IDS);
  });
}

/** One example for each place in each step; every id is learned. */
export function examples({ batch, length, steps }: Shape): TokenExamples {
  const count = batch * steps;
  const inputIds = arbitraryIds(count * length);
  return {
    inputIds,
    labels: Int32Array.from(inputIds),
    offsets: Uint32Array.from({ length: count + 1 }, (_, index) => index * length),
  };
}

/** The same examples as JSONL in the `tokens` format. */
export function jsonLines(shape: Shape): string {
  const { inputIds, labels, offsets } = examples(shape);
  let text = '';
  for (let index = 0; index + 1 < offsets.length; index++) {
    const [from, to] = [offsets[index], offsets[index + 1]];
    const line = { input_ids: [...inputIds.subarray(from, to)], labels: [...labels.subarray(from, to)] };
    text += `${JSON.stringify(line)}\n`;
  }
  return text;
}

/** Every setting of the engine written out, so that no default of the server makes a difference. */
export function trainingSpec({ batch, steps }: Shape): TrainingSpec {
  return TrainingSpec.fromPartial({
    lora: { r: 8, loraAlpha: 16, loraDropout: 0, targetModules: ['all-linear'] },
    learningRate: 1e-4,
    lrSchedulerType: 'constant',
    warmupSteps: 0,
    weightDecay: 0,
    adamBeta1: 0.9,
    adamBeta2: 0.999,
    adamEpsilon: 1e-8,
    maxGradNorm: 1,
    perDeviceTrainBatchSize: batch,
    gradientAccumulationSteps: 1,
    numTrainEpochs: 1,
    maxSteps: steps,
    perDeviceEvalBatchSize: batch,
    shuffle: false,
    seed: 42,
    dataSeed: 42,
    offloadActivations: false,
    recomputeLayers: 0,
  });
}
