/** A stored spec as the engine takes it. */
import { isAbsolute } from 'node:path';
import { type AdapterStore, isForOtherBase, type StoredAdapter } from '../adapters/adapter-store.ts';
import type { LoraConfig, TrainingConfig } from '../engine/engine.ts';
import { LoraSpec, type TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { checkPath } from '../models/allowed-path.ts';

/** A number that a stored spec has by construction: its defaults were written out when it was checked. */
const number = (value: number | undefined): number => value ?? 0;

/** A list of names or a regular expression; null where neither is there. */
function moduleNames(names: readonly string[], pattern: string): readonly string[] | string | null {
  if (pattern !== '') return pattern;
  return names.length === 0 || names.includes('all-linear') ? null : names;
}

/** Settings of a new adapter, of a spec. */
export function loraConfig({ lora = LoraSpec.create(), seed }: Pick<TrainingSpec, 'lora' | 'seed'>): LoraConfig {
  return {
    r: number(lora.r),
    loraAlpha: number(lora.loraAlpha),
    loraDropout: number(lora.loraDropout),
    useRslora: lora.useRslora,
    seed: number(seed),
    targetModules: moduleNames(lora.targetModules, lora.targetPattern),
    excludeModules: moduleNames(lora.excludeModules, lora.excludePattern),
    layersToTransform: lora.layersToTransform.length === 0 ? null : lora.layersToTransform,
    layersPattern: lora.layersPattern,
    rankPattern: lora.rankPattern,
    alphaPattern: lora.alphaPattern,
  };
}

/** The adapter that a job starts from. */
export interface InitAdapter {
  readonly folder: string;
  /** Whether it was accepted for another base than it carries the content hash of. */
  readonly anyBase: boolean;
  /** Null for a folder: what its files say is the engine's to read. */
  readonly stored: StoredAdapter | null;
}

/**
 * @param initAdapter From `findInitAdapter`.
 * @param maxSeqLength Of the prepared examples: what is packed is packed into sequences of this length.
 */
export function engineConfig(
  spec: TrainingSpec,
  initAdapter: InitAdapter | null,
  maxSeqLength: number,
): TrainingConfig {
  return {
    lora: loraConfig(spec),
    initAdapterPath: initAdapter?.folder ?? null,
    initAdapterAnyBase: initAdapter?.anyBase ?? false,
    optim: spec.optim ?? 'adamw_torch',
    learningRate: number(spec.learningRate),
    loraplusLrRatio: spec.loraplusLrRatio ?? 1,
    lrSchedulerType: spec.lrSchedulerType ?? 'linear',
    lrSchedulerKwargs: spec.lrSchedulerKwargs ?? {},
    warmupSteps: number(spec.warmupSteps),
    weightDecay: number(spec.weightDecay),
    adamBeta1: number(spec.adamBeta1),
    adamBeta2: number(spec.adamBeta2),
    adamEpsilon: number(spec.adamEpsilon),
    maxGradNorm: number(spec.maxGradNorm),
    labelSmoothingFactor: number(spec.labelSmoothingFactor),
    neftuneNoiseAlpha: number(spec.neftuneNoiseAlpha),
    lossNormalization: spec.lossNormalization ?? 'tokens',
    perDeviceTrainBatchSize: number(spec.perDeviceTrainBatchSize),
    gradientAccumulationSteps: number(spec.gradientAccumulationSteps),
    numTrainEpochs: number(spec.numTrainEpochs),
    maxSteps: spec.maxSteps ?? null,
    perDeviceEvalBatchSize: number(spec.perDeviceEvalBatchSize),
    evalSteps: spec.evalSteps ?? null,
    metricForBestModel: spec.metricForBestModel ?? 'eval_loss',
    loadBestModelAtEnd: spec.loadBestModelAtEnd,
    earlyStoppingPatience: spec.earlyStoppingPatience ?? null,
    earlyStoppingThreshold: number(spec.earlyStoppingThreshold),
    maxNonFiniteSteps: number(spec.maxNonFiniteSteps),
    // Known once the run is planned: `saveStepsOf`.
    saveSteps: null,
    shuffle: spec.shuffle ?? true,
    dataSeed: number(spec.dataSeed),
    groupByLength: spec.groupByLength,
    packingLength: spec.packing ? maxSeqLength : null,
    recomputeLayers: spec.gradientCheckpointing ? 'all' : (spec.recomputeLayers ?? 'auto'),
    offloadActivations: spec.offloadActivations,
  };
}

/**
 * The adapter that a job starts from; null: none.
 * @param name As `TrainingSpec.init_adapter`.
 * @throws LuthierError ADAPTER_NOT_FOUND, PATH_NOT_ALLOWED
 */
export async function findInitAdapter(
  name: string,
  adapters: Pick<AdapterStore, 'get'>,
  roots: readonly string[],
): Promise<InitAdapter | null> {
  if (name === '') return null;
  const isPath = isAbsolute(name) || (/[\\/]/.test(name) && !/^(adapters|trainingJobs)\//.test(name));
  if (isPath) return { folder: await checkPath(name, roots), anyBase: false, stored: null };
  const adapter = adapters.get(name);
  return { folder: adapter.folder, anyBase: isForOtherBase(adapter), stored: adapter };
}
