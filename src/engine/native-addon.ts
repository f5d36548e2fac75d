/** The Rust addon's objects and classes as they are; `native.ts` makes the engine's interface of them. Names and order as in `engine/binding`. */
import type {
  AdapterInfo,
  AdapterMetadata,
  BaseModel,
  EngineInfo,
  EstimatedModel,
  EvaluationResult,
  ExampleData,
  GeneratedTokens,
  GgufTokenizerMetadata,
  LoraConfig,
  MergeBase,
  MergedModel,
  MergeFormat,
  ModelMetadata,
  ResumedRun,
  SamplingConfig,
  SavedAdapter,
  SavedCheckpoint,
  TokenScores,
  TrainingConfig,
  TrainingEstimate,
  TrainingStep,
  WeightStorage,
} from './engine.ts';
import type { GpuProbe } from './gpus.ts';

export interface NativeModelMetadata extends Omit<ModelMetadata, 'tokenizer'> {
  readonly tokenizerGguf: GgufTokenizerMetadata | null;
  readonly tokenizerFolder: string | null;
}

type NativeModelWeights = Pick<BaseModel, 'storage' | 'storageType' | 'loadedBytes'>;

type ModuleNames = readonly string[] | string | undefined;

export interface NativeLoraConfig extends Omit<LoraConfig, 'targetModules' | 'excludeModules' | 'layersToTransform'> {
  readonly targetModules: ModuleNames;
  readonly excludeModules: ModuleNames;
  readonly layersToTransform: readonly number[] | undefined;
}

export interface NativeTrainingConfig
  extends Omit<
    TrainingConfig,
    | 'lora'
    | 'initAdapterPath'
    | 'maxSteps'
    | 'evalSteps'
    | 'earlyStoppingPatience'
    | 'packingLength'
    | 'recomputeLayers'
    | 'saveSteps'
  > {
  readonly lora: NativeLoraConfig;
  readonly initAdapterPath: string | undefined;
  readonly maxSteps: number | undefined;
  readonly evalSteps: number | undefined;
  readonly packingLength: number | undefined;
  readonly earlyStoppingPatience: number | undefined;
  readonly saveSteps: number | undefined;
  /** `auto`, `all` or a number. */
  readonly recomputeLayers: string;
}

export interface NativeTrainingEvent {
  readonly kind: 'started' | 'step' | 'evaluation' | 'checkpoint' | 'finished' | 'cancelled' | 'paused';
  readonly plan: TrainingEstimate | null;
  readonly resumed: ResumedRun | null;
  readonly step: TrainingStep | null;
  readonly evaluation: EvaluationResult | null;
  readonly globalStep: number | null;
}

interface NativeTrainingEvents {
  readonly events: readonly NativeTrainingEvent[];
  readonly ended: boolean;
  readonly failureCode: string | null;
  readonly failureMessage: string | null;
}

export interface NativeTrainingRun {
  next(): Promise<NativeTrainingEvents>;
  cancel(): void;
  requestCheckpoint(): void;
  pause(): void;
  stopAfterStep(): void;
  saveCheckpoint(folder: string): Promise<SavedCheckpoint>;
  saveAdapter(folder: string, metadata: AdapterMetadata): Promise<SavedAdapter>;
  close(): void;
}

/** `eosTokenId` follows from the last id. */
type NativeGeneratedTokens = Omit<GeneratedTokens, 'eosTokenId'>;

export interface NativeGenerationRun {
  next(): Promise<NativeGeneratedTokens>;
  cancel(): void;
}

export interface NativeAdapter {
  info(): AdapterInfo;
  close(): void;
}

export interface NativeModel {
  metadata(): NativeModelMetadata;
  weights(): NativeModelWeights;
  loadAdapter(folder: string, anyBase: boolean): Promise<NativeAdapter>;
  train(
    config: NativeTrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
    resumeFrom: string | null,
  ): Promise<NativeTrainingRun>;
  generate(inputIds: Uint32Array, sampling: SamplingConfig, adapter: NativeAdapter | null): NativeGenerationRun;
  score(inputIds: Uint32Array, topLogits: number, adapter: NativeAdapter | null): Promise<TokenScores>;
  close(): void;
}

interface NativeEstimatedModel extends EstimatedModel {
  readonly embeddingInHostMemory: boolean;
}

interface NativeMergeBase extends Omit<MergeBase, 'contentHash'> {
  readonly contentHash: string | undefined;
}

interface NativeQuantization {
  progress(): { readonly writtenBytes: number; readonly totalBytes: number };
  cancel(): void;
  /** Does the work; once. */
  run(): Promise<number>;
}

export interface NativeEngine {
  /** Without what only the choice of the device knows. */
  info(): Omit<EngineInfo, 'deviceReason' | 'gpus'>;
  readMetadata(path: string): Promise<NativeModelMetadata>;
  loadModel(path: string, storage: WeightStorage, embeddingInHostMemory: boolean): Promise<NativeModel>;
  weightBytes(
    path: string,
    storages: readonly WeightStorage[],
    embeddingInHostMemory: boolean,
  ): Promise<readonly number[]>;
  /** Throws INVALID_ARGUMENT for an unknown storage type. */
  quantizeModel(path: string, storage: WeightStorage, folder: string): NativeQuantization;
  checkTargets(lora: NativeLoraConfig): void;
  estimateTraining(
    model: NativeEstimatedModel,
    config: NativeTrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
  ): Promise<TrainingEstimate>;
  readAdapter(folder: string): Promise<AdapterInfo>;
  mergeAdapter(base: NativeMergeBase, adapter: string, format: MergeFormat, folder: string): Promise<MergedModel>;
  close(): Promise<void>;
}

/** What a build of the addon exports. */
export interface Addon {
  /** Throws INVALID_ARGUMENT for a device that this build cannot compute on. `device`: `Devices`. `computeType`: `bf16` or `f16`. */
  readonly NativeEngine: new (
    threads: number | null,
    device: string,
    computeType: string,
  ) => NativeEngine;
  /** What this build can compute on, besides the processor. */
  capabilities(): { readonly cuda: boolean };
  probeGpus(): GpuProbe;
  /** Why a library cannot be opened by this process, in the loader's words; null where it can. By name or by path. */
  libraryProblem(name: string): string | null;
}
