/** When a job's checkpoints are taken. */
import type { TrainingEstimate } from '../engine/engine.ts';
import type { TrainingSpec } from '../gen/luthier/v1/training_service.ts';

type Sized = Pick<TrainingSpec, 'perDeviceTrainBatchSize' | 'gradientAccumulationSteps'>;

/** Optimizer steps of an epoch. Groups of micro-batches begin anew in each, so it is a whole number. */
function stepsPerEpoch(spec: Sized, { examples, packing }: Pick<TrainingEstimate, 'examples' | 'packing'>): number {
  const sequences = packing?.sequences ?? examples;
  const batches = Math.ceil(sequences / (spec.perDeviceTrainBatchSize ?? 1));
  return Math.ceil(batches / (spec.gradientAccumulationSteps ?? 1));
}

/** `TrainingConfig.saveSteps` of a job. */
export function saveStepsOf(
  spec: TrainingSpec,
  estimate: Pick<TrainingEstimate, 'examples' | 'packing'>,
): number | null {
  if (spec.saveStrategy === 'steps') return spec.saveSteps ?? null;
  return spec.saveStrategy === 'epoch' ? stepsPerEpoch(spec, estimate) : null;
}

/** Milliseconds between two checkpoints; null: they do not follow the clock. Jobs of before there were checkpoints have the default. */
export function saveIntervalOf({ saveStrategy = 'interval', saveIntervalSeconds = 60 }: TrainingSpec): number | null {
  return saveStrategy === 'interval' ? 1000 * saveIntervalSeconds : null;
}

/** Checkpoints to keep. */
export const saveLimitOf = ({ saveTotalLimit = 2 }: TrainingSpec): number => saveTotalLimit;
