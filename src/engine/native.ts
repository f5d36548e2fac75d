/** The engine's interface over the Rust addon. */
import { INSTALLED_ADDONS } from './addon-files.ts';
import { chooseDevice, type DeviceChoice } from './choose-device.ts';
import type { ComputeType, DeviceSetting } from './device-setting.ts';
import type {
  AdapterHandle,
  AdapterMetadata,
  BaseModel,
  Engine,
  EstimatedModel,
  ExampleData,
  GeneratedTokens,
  GenerationRun,
  LoraConfig,
  MergeBase,
  MergedModel,
  MergeFormat,
  ModelMetadata,
  QuantizeRun,
  SamplingConfig,
  SavedCheckpoint,
  TokenScores,
  TrainingConfig,
  TrainingEstimate,
  TrainingEvent,
  TrainingRun,
  WeightStorage,
} from './engine.ts';
import { EngineError, type EngineErrorCode } from './errors.ts';
import type {
  NativeAdapter,
  NativeEngine,
  NativeGenerationRun,
  NativeLoraConfig,
  NativeModel,
  NativeModelMetadata,
  NativeTrainingConfig,
  NativeTrainingEvent,
  NativeTrainingRun,
} from './native-addon.ts';

export interface NativeEngineOptions {
  readonly device: DeviceSetting;
  /** Threads for matrix products; null: as many as the process may use. */
  readonly threads: number | null;
  /** Of activations on a GPU. */
  readonly computeType: ComputeType;
  /** A GPU reads embedding tables of their own from locked memory of the host, where the host locks so much. */
  readonly embeddingInHostMemory: boolean;
}

/** The addon's errors carry the engine's code as the message of their cause. */
function toEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  if (!(error instanceof Error)) return new EngineError('INTERNAL', String(error), { cause: error });
  const code = error.cause instanceof Error ? error.cause.message : 'INTERNAL';
  return new EngineError(code as EngineErrorCode, error.message, { cause: error });
}

async function settled<T>(promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw toEngineError(error);
  }
}

function toMetadata({ tokenizerGguf, tokenizerFolder, ...rest }: NativeModelMetadata): ModelMetadata {
  return {
    ...rest,
    tokenizer:
      tokenizerGguf === null
        ? { kind: 'huggingface', folder: tokenizerFolder ?? rest.path }
        : { kind: 'gguf', metadata: tokenizerGguf },
  };
}

function toNativeLora(lora: LoraConfig): NativeLoraConfig {
  return {
    ...lora,
    targetModules: lora.targetModules ?? undefined,
    excludeModules: lora.excludeModules ?? undefined,
    layersToTransform: lora.layersToTransform ?? undefined,
  };
}

function toNativeConfig({
  lora,
  initAdapterPath,
  maxSteps,
  evalSteps,
  packingLength,
  earlyStoppingPatience,
  recomputeLayers,
  saveSteps,
  ...rest
}: TrainingConfig): NativeTrainingConfig {
  return {
    ...rest,
    lora: toNativeLora(lora),
    initAdapterPath: initAdapterPath ?? undefined,
    maxSteps: maxSteps ?? undefined,
    evalSteps: evalSteps ?? undefined,
    packingLength: packingLength ?? undefined,
    earlyStoppingPatience: earlyStoppingPatience ?? undefined,
    recomputeLayers: String(recomputeLayers),
    saveSteps: saveSteps ?? undefined,
  };
}

function toEvent({ kind, plan, resumed, step, evaluation, globalStep }: NativeTrainingEvent): TrainingEvent {
  if (plan !== null) return { kind: 'started', resumed, ...plan };
  if (step !== null) return { kind: 'step', step };
  if (evaluation !== null) return { kind: 'evaluation', evaluation };
  if (globalStep !== null) return { kind: kind === 'paused' ? 'paused' : 'checkpoint', globalStep };
  return { kind: kind === 'cancelled' ? 'cancelled' : 'finished' };
}

class NativeRun implements TrainingRun {
  readonly #run: NativeTrainingRun;

  constructor(run: NativeTrainingRun) {
    this.#run = run;
  }

  async *events(): AsyncGenerator<TrainingEvent> {
    for (;;) {
      const batch = await settled(this.#run.next());
      for (const event of batch.events) yield toEvent(event);
      if (batch.failureCode !== null) {
        throw new EngineError(batch.failureCode as EngineErrorCode, batch.failureMessage ?? '');
      }
      if (batch.ended) return;
    }
  }

  cancel(): void {
    this.#run.cancel();
  }

  requestCheckpoint(): void {
    this.#run.requestCheckpoint();
  }

  pause(): void {
    this.#run.pause();
  }

  stopAfterStep(): void {
    this.#run.stopAfterStep();
  }

  saveCheckpoint(folder: string): Promise<SavedCheckpoint> {
    return settled(this.#run.saveCheckpoint(folder));
  }

  saveAdapter(folder: string, metadata: AdapterMetadata) {
    return settled(this.#run.saveAdapter(folder, metadata));
  }

  close(): void {
    this.#run.close();
  }
}

class NativeGeneration implements GenerationRun {
  readonly #run: NativeGenerationRun;

  constructor(run: NativeGenerationRun) {
    this.#run = run;
  }

  async *tokens(): AsyncGenerator<GeneratedTokens> {
    try {
      for (;;) {
        const batch = await settled(this.#run.next());
        const eosTokenId = batch.finishReason === 'eos' ? (batch.tokenIds.at(-1) ?? null) : null;
        // The id that ends the sequence is no part of it.
        const count = eosTokenId === null ? batch.tokenIds.length : batch.tokenIds.length - 1;
        yield {
          tokenIds: batch.tokenIds.subarray(0, count),
          logprobs: batch.logprobs.subarray(0, count),
          finishReason: batch.finishReason,
          eosTokenId,
        };
        if (batch.finishReason !== null) return;
      }
    } finally {
      this.#run.cancel();
    }
  }

  cancel(): void {
    this.#run.cancel();
  }
}

class NativeAdapterHandle implements AdapterHandle {
  readonly info: AdapterHandle['info'];
  /** Null once closed. */
  #adapter: NativeAdapter | null;

  constructor(adapter: NativeAdapter) {
    this.info = adapter.info();
    this.#adapter = adapter;
  }

  static native(handle: AdapterHandle | null): NativeAdapter | null {
    if (handle === null) return null;
    if (!(handle instanceof NativeAdapterHandle)) {
      throw new EngineError('INVALID_ARGUMENT', 'the adapter was loaded by another engine; load it with this one');
    }
    if (handle.#adapter === null) throw new EngineError('CLOSED', 'the adapter is closed; load it again');
    return handle.#adapter;
  }

  close(): void {
    this.#adapter?.close();
    this.#adapter = null;
  }
}

class NativeBaseModel implements BaseModel {
  readonly metadata: ModelMetadata;
  readonly storage: WeightStorage;
  readonly storageType: string;
  readonly loadedBytes: number;
  /** Null once closed; the memory goes with the last run that uses it. */
  #model: NativeModel | null;

  constructor(model: NativeModel) {
    this.metadata = toMetadata(model.metadata());
    ({ storage: this.storage, storageType: this.storageType, loadedBytes: this.loadedBytes } = model.weights());
    this.#model = model;
  }

  get #open(): NativeModel {
    if (this.#model !== null) return this.#model;
    throw new EngineError('CLOSED', `the model ${this.metadata.name} is closed; load it again`);
  }

  async loadAdapter(folder: string, anyBase: boolean): Promise<AdapterHandle> {
    return new NativeAdapterHandle(await settled(this.#open.loadAdapter(folder, anyBase)));
  }

  async train(
    config: TrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
    resumeFrom: string | null = null,
  ): Promise<TrainingRun> {
    return new NativeRun(await settled(this.#open.train(toNativeConfig(config), train, evaluation, resumeFrom)));
  }

  generate(inputIds: Uint32Array, sampling: SamplingConfig, adapter: AdapterHandle | null): GenerationRun {
    const model = this.#open;
    const native = NativeAdapterHandle.native(adapter);
    try {
      return new NativeGeneration(model.generate(inputIds, sampling, native));
    } catch (error) {
      throw toEngineError(error);
    }
  }

  async score(inputIds: Uint32Array, topLogits: number, adapter: AdapterHandle | null): Promise<TokenScores> {
    return settled(this.#open.score(inputIds, topLogits, NativeAdapterHandle.native(adapter)));
  }

  close(): void {
    this.#model?.close();
    this.#model = null;
  }
}

class AddonEngine implements Engine {
  readonly hasEncoders = true;
  readonly #engine: NativeEngine;
  readonly #choice: DeviceChoice;
  readonly #embeddingInHostMemory: boolean;
  /** Null until it is closed. */
  #closing: Promise<void> | null = null;

  constructor(engine: NativeEngine, choice: DeviceChoice, embeddingInHostMemory: boolean) {
    this.#engine = engine;
    this.#choice = choice;
    this.#embeddingInHostMemory = embeddingInHostMemory;
  }

  get #open(): NativeEngine {
    if (this.#closing === null) return this.#engine;
    throw new EngineError('CLOSED', 'the engine is closed; open a new one');
  }

  info() {
    return { ...this.#engine.info(), deviceReason: this.#choice.reason, gpus: this.#choice.gpus };
  }

  async readMetadata(path: string): Promise<ModelMetadata> {
    return toMetadata(await settled(this.#open.readMetadata(path)));
  }

  async loadModel(path: string, storage: WeightStorage): Promise<BaseModel> {
    return new NativeBaseModel(await settled(this.#open.loadModel(path, storage, this.#embeddingInHostMemory)));
  }

  async weightBytes(path: string, storages: readonly WeightStorage[]): Promise<readonly number[]> {
    return settled(this.#open.weightBytes(path, storages, this.#embeddingInHostMemory));
  }

  quantizeModel(path: string, storage: WeightStorage, folder: string): QuantizeRun {
    const run = this.#open.quantizeModel(path, storage, folder);
    return { progress: () => run.progress(), cancel: () => run.cancel(), finished: settled(run.run()) };
  }

  checkTargets(lora: LoraConfig): void {
    try {
      this.#open.checkTargets(toNativeLora(lora));
    } catch (error) {
      throw toEngineError(error);
    }
  }

  async estimateTraining(
    model: EstimatedModel,
    config: TrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
  ): Promise<TrainingEstimate> {
    const asked = { ...model, embeddingInHostMemory: this.#embeddingInHostMemory };
    return settled(this.#open.estimateTraining(asked, toNativeConfig(config), train, evaluation));
  }

  async readAdapter(folder: string) {
    return settled(this.#open.readAdapter(folder));
  }

  async mergeAdapter(base: MergeBase, adapter: string, format: MergeFormat, folder: string): Promise<MergedModel> {
    const files = { ...base, contentHash: base.contentHash ?? undefined };
    return settled(this.#open.mergeAdapter(files, adapter, format, folder));
  }

  close(): Promise<void> {
    this.#closing ??= settled(this.#engine.close());
    return this.#closing;
  }
}

/**
 * Chooses and opens the device. Errors of this engine and of everything it gives are `EngineError`.
 * @throws EngineError INTERNAL where the addon is missing or cannot be loaded, INVALID_ARGUMENT where the device cannot be had
 */
export async function openNativeEngine(options: NativeEngineOptions): Promise<Engine> {
  const choice = chooseDevice(options.device, INSTALLED_ADDONS);
  try {
    const engine = new choice.addon.NativeEngine(options.threads, choice.device, options.computeType);
    return new AddonEngine(engine, choice, options.embeddingInHostMemory);
  } catch (error) {
    throw toEngineError(error);
  }
}
