/** A job's data, rendered, and its run, planned: what a job does before its model is loaded, and all that an estimate does. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import { otherTemplate, shownTemplate } from '../adapters/template-mismatch.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { type PreparedExamples, prepareExamples } from '../datasets/prepare-examples.ts';
import type { TokenCache } from '../datasets/token-cache.ts';
import type { Engine, EstimatedModel, TrainingConfig, TrainingEstimate } from '../engine/engine.ts';
import type { TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { weightStorage } from '../models/weight-storage.ts';
import type { TemplateIdentity } from '../prompt/renderer.ts';
import { overLengthField, trainOnField } from '../services/validate/dataset.ts';
import { engineConfig, findInitAdapter, type InitAdapter } from './engine-config.ts';

export interface PrepareJobDependencies {
  readonly engine: Pick<Engine, 'estimateTraining'>;
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly tokenCache: TokenCache;
  readonly adapters: ManagedAdapterStore;
  readonly modelRoots: readonly string[];
}

/** A job that can be started. */
export interface PreparedJob {
  /** To be released. */
  readonly prepared: PreparedExamples;
  readonly config: TrainingConfig;
  readonly model: EstimatedModel;
  readonly estimate: TrainingEstimate;
  /** Where the adapter that the job starts from was trained with another template; else null. */
  readonly templateWarning: string | null;
}

function templateWarning(initAdapter: InitAdapter | null, template: TemplateIdentity | null): string | null {
  const trained = initAdapter?.stored && template ? otherTemplate(initAdapter.stored, template) : null;
  return trained === null || template === null
    ? null
    : `${trained}, this job's examples are rendered with ${shownTemplate(template)}`;
}

/**
 * @param spec With every default written out.
 * @throws the signal's reason; what data sets, models, adapters and the engine throw
 */
export async function prepareJob(
  { engine, registry, datasets, tokenCache, adapters, modelRoots }: PrepareJobDependencies,
  spec: TrainingSpec,
  signal: AbortSignal,
): Promise<PreparedJob> {
  const initAdapter = await findInitAdapter(spec.initAdapter, adapters, modelRoots);
  // A job may have waited for long.
  await registry.checkFiles(spec.model);
  const { evaluation, ...rest } = await prepareExamples(
    { registry, openDataset: (dataset) => datasets.open(dataset), tokenCache },
    { ...spec, trainOn: trainOnField.parse(spec.trainOn), overLength: overLengthField.parse(spec.overLength) },
    signal,
  );
  const prepared = { ...rest, evaluation: spec.evalStrategy === 'no' ? null : evaluation };
  try {
    const config = engineConfig(spec, initAdapter, prepared.maxSeqLength);
    const { metadata, loaded } = await registry.get(spec.model);
    const model = {
      path: metadata.path,
      storage: weightStorage(spec.loadIn, metadata),
      loaded: loaded.some(({ loadIn }) => loadIn === spec.loadIn),
      contentHash: metadata.contentHash,
    };
    const estimate = await engine.estimateTraining(model, config, prepared.train, prepared.evaluation);
    signal.throwIfAborted();
    return { prepared, config, model, estimate, templateWarning: templateWarning(initAdapter, prepared.template) };
  } catch (error) {
    await prepared.release();
    throw error;
  }
}
