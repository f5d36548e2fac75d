/** A job's data, rendered. */
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { type PreparedExamples, prepareExamples } from '../datasets/prepare-examples.ts';
import type { TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { overLengthField, trainOnField } from '../services/validate/dataset.ts';

/** @throws what `prepareExamples` throws */
export function prepareJob(
  { registry, datasets }: { readonly registry: ModelRegistry; readonly datasets: DatasetStore },
  spec: TrainingSpec,
  signal: AbortSignal,
): Promise<PreparedExamples> {
  return prepareExamples(
    { registry, openDataset: (dataset) => datasets.open(dataset) },
    { ...spec, trainOn: trainOnField.parse(spec.trainOn), overLength: overLengthField.parse(spec.overLength) },
    signal,
  );
}
