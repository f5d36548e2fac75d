/** What a job would be and need, from the same data and the same planner as the job; nothing is stored and no model is loaded. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import type { Engine } from '../engine/engine.ts';
import { EstimateTrainingJobResponse, type TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';
import { engineConfig, initAdapterFolder } from './engine-config.ts';
import type { MeasuredRates } from './measured-rates.ts';
import { planMessage, suggestionMessage } from './plan-message.ts';
import { prepareJob } from './prepare-job.ts';

export interface EstimateJobDependencies {
  readonly engine: Pick<Engine, 'info' | 'estimateTraining'>;
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly adapters: ManagedAdapterStore;
  readonly modelRoots: readonly string[];
  readonly rates: MeasuredRates;
}

/**
 * @param spec With every default written out.
 * @throws the signal's reason; what data sets, models, adapters and the engine throw
 */
export async function estimateJob(
  { engine, registry, datasets, adapters, modelRoots, rates }: EstimateJobDependencies,
  spec: TrainingSpec,
  signal: AbortSignal,
): Promise<EstimateTrainingJobResponse> {
  const initAdapter = await initAdapterFolder(spec.initAdapter, adapters, modelRoots);
  const prepared = await prepareJob({ registry, datasets }, spec, signal);
  const { metadata, loaded } = await registry.get(spec.model);
  const { contentHash } = metadata;
  const storage = weightStorage(spec.loadIn, metadata);
  const model = {
    path: metadata.path,
    storage,
    loaded: loaded.some(({ loadIn }) => loadIn === spec.loadIn),
    contentHash,
  };
  const { train, evaluation, warnings } = prepared;
  const estimate = await engine.estimateTraining(model, engineConfig(spec, initAdapter), train, evaluation);
  const { memory, runTokens, maxSteps } = estimate;
  const rate = rates.of({ contentHash, storage, recomputeLayers: memory.recomputeLayers });
  return EstimateTrainingJobResponse.fromPartial({
    peakBytes: memory.totalBytes,
    fits: memory.fits,
    steps: maxSteps,
    seconds: rate === null ? undefined : runTokens / rate,
    plan: planMessage(estimate, prepared, contentHash),
    runTokens,
    deviceMemoryBytes: engine.info().totalMemoryBytes,
    suggestions: memory.suggestions.map(suggestionMessage),
    warnings: [...warnings],
  });
}
