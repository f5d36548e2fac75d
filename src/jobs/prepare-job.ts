/** A job's data, rendered, and its run, planned: what a job does before its model is loaded, and all that an estimate does. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { type PreparedExamples, prepareExamples } from '../datasets/prepare-examples.ts';
import type { Engine, EstimatedModel, TrainingConfig, TrainingEstimate } from '../engine/engine.ts';
import type { TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';
import { overLengthField, trainOnField } from '../services/validate/dataset.ts';
import { engineConfig, findInitAdapter } from './engine-config.ts';

export interface PrepareJobDependencies {
  readonly engine: Pick<Engine, 'estimateTraining'>;
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly adapters: ManagedAdapterStore;
  readonly modelRoots: readonly string[];
}

/** A job that can be started. */
export interface PreparedJob {
  readonly prepared: PreparedExamples;
  readonly config: TrainingConfig;
  readonly model: EstimatedModel;
  readonly estimate: TrainingEstimate;
}

/**
 * @param spec With every default written out.
 * @throws the signal's reason; what data sets, models, adapters and the engine throw
 */
export async function prepareJob(
  { engine, registry, datasets, adapters, modelRoots }: PrepareJobDependencies,
  spec: TrainingSpec,
  signal: AbortSignal,
): Promise<PreparedJob> {
  const config = engineConfig(spec, await findInitAdapter(spec.initAdapter, adapters, modelRoots));
  const { evaluation, ...rest } = await prepareExamples(
    { registry, openDataset: (dataset) => datasets.open(dataset) },
    { ...spec, trainOn: trainOnField.parse(spec.trainOn), overLength: overLengthField.parse(spec.overLength) },
    signal,
  );
  const prepared = { ...rest, evaluation: spec.evalStrategy === 'no' ? null : evaluation };
  const { metadata, loaded } = await registry.get(spec.model);
  const model = {
    path: metadata.path,
    storage: weightStorage(spec.loadIn, metadata),
    loaded: loaded.some(({ loadIn }) => loadIn === spec.loadIn),
    contentHash: metadata.contentHash,
  };
  const estimate = await engine.estimateTraining(model, config, prepared.train, prepared.evaluation);
  signal.throwIfAborted();
  return { prepared, config, model, estimate };
}
