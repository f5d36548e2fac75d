/** An engine without a device, for tests of everything above it. It keeps the interface's promises; its numbers mean nothing. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type {
  AdapterHandle,
  AdapterInfo,
  BaseModel,
  Engine,
  ExampleData,
  ModelMetadata,
  SamplingConfig,
  TokenExamples,
  TokenScores,
  TrainingConfig,
  WeightStorage,
} from './engine.ts';
import { EngineError } from './errors.ts';
import { readFakeAdapter, readFakeAdapterFor } from './fake-adapter.ts';
import { readFakeCheckpoint, runFacts } from './fake-checkpoint.ts';
import { fakeEstimate } from './fake-estimate.ts';
import { readExamples } from './fake-examples.ts';
import { type BeforeToken, FakeGenerationRun } from './fake-generation.ts';
import { fakeMetadata } from './fake-metadata.ts';
import { type BeforeSave, type BeforeStep, checkExamples, FakeTrainingRun, type LossOffset } from './fake-training.ts';

export interface FakeEngineOptions {
  /** Models by path, with what differs from the default one; null: every path has the default one. */
  readonly models?: Readonly<Record<string, Partial<ModelMetadata>>> | null;
  /** Awaited by every `loadModel`; what it throws fails the load. */
  readonly beforeLoad?: (path: string, storage: WeightStorage) => void | Promise<void>;
  /** Awaited by every `quantizeModel`, before its only file is written; what it throws fails the run. */
  readonly beforeQuantize?: (folder: string) => void | Promise<void>;
  /** Bytes that the device has left, as the engine's plans see it; null: unknown, so that everything fits. */
  readonly freeBytes?: number | null;
  readonly beforeStep?: BeforeStep;
  readonly beforeSave?: BeforeSave;
  /** Makes a run compute other numbers. */
  readonly lossOffset?: LossOffset;
  /** Another name: checkpoints of engines with other names tell the difference. */
  readonly deviceName?: string;
  readonly beforeToken?: BeforeToken;
  /** Ids to draw for a prompt, repeated up to `maxNewTokens`; without it the prompt is echoed. */
  readonly generate?: (inputIds: readonly number[]) => readonly number[];
}

const DEVICE_NAME = 'fake';

interface PlanRequest {
  readonly model: ModelMetadata;
  readonly loaded: boolean;
  readonly config: TrainingConfig;
  readonly train: TokenExamples;
  readonly evaluation: TokenExamples | null;
  readonly freeBytes: number | null;
}

/** Refuses what the engine refuses; the settings with what the initial adapter brings, and the plan. */
async function planTraining(request: PlanRequest) {
  const { model, config, train, evaluation } = request;
  if (!Number.isFinite(config.learningRate) || config.learningRate < 0) {
    throw new EngineError('INVALID_ARGUMENT', `learning_rate is ${config.learningRate}; expected a finite number`);
  }
  const { linearModules } = model;
  // Which modules a regular expression matches is the engine's to say; here it is all of them.
  const named = typeof config.lora.targetModules === 'string' ? null : config.lora.targetModules;
  const unknown = named?.find((name) => !linearModules.includes(name));
  if (unknown !== undefined) {
    throw new EngineError(
      'UNKNOWN_TARGET_MODULE',
      `there is no module ${unknown}; expected ${linearModules.join(', ')}`,
    );
  }
  const { initAdapterPath, initAdapterAnyBase } = config;
  const initial =
    initAdapterPath === null ? null : await readFakeAdapterFor(model, initAdapterPath, initAdapterAnyBase);
  const targetModules = initial?.targetModules ?? named ?? linearModules;
  checkExamples(model, train, 'training');
  if (evaluation !== null) checkExamples(model, evaluation, 'evaluation');
  const lora = initial === null ? config.lora : { ...config.lora, ...initial, targetModules };
  const whole = { ...config, lora };
  return { config: whole, estimate: fakeEstimate({ ...request, config: whole, targetModules }) };
}

/** Types of weights that are not as stored. */
const STORAGE_TYPES: Readonly<Partial<Record<WeightStorage, string>>> = {
  bf16: 'bf16',
  f16: 'f16',
  int8: 'int8',
  nf4: 'nf4',
  nf4_double_quant: 'nf4',
};

/** A regular expression as this language has them; the engine's own are Python's. */
function readPattern(text: string): void {
  try {
    new RegExp(text);
  } catch (cause) {
    throw new EngineError('INVALID_ARGUMENT', `\`${text}\` is no regular expression that can be read`, { cause });
  }
}

/** What ends when the engine is closed. */
interface Run {
  fail(error: EngineError): void;
}

class FakeAdapterHandle implements AdapterHandle {
  readonly info: AdapterInfo;
  closed = false;

  constructor(info: AdapterInfo) {
    this.info = info;
  }

  close(): void {
    this.closed = true;
  }
}

class FakeModel implements BaseModel {
  readonly metadata: ModelMetadata;
  readonly storage: WeightStorage;
  readonly storageType: string;
  readonly loadedBytes: number;
  readonly #options: FakeEngineOptions;
  readonly #runs: Run[];
  #closed = false;

  constructor(metadata: ModelMetadata, storage: WeightStorage, options: FakeEngineOptions, runs: Run[]) {
    this.metadata = metadata;
    this.storage = storage;
    this.storageType = STORAGE_TYPES[storage] ?? metadata.storageType;
    this.loadedBytes = metadata.storedBytes;
    this.#options = options;
    this.#runs = runs;
  }

  async loadAdapter(folder: string, anyBase: boolean): Promise<AdapterHandle> {
    this.#checkOpen();
    return new FakeAdapterHandle(await readFakeAdapterFor(this.metadata, folder, anyBase));
  }

  async train(
    config: TrainingConfig,
    trainData: ExampleData,
    evaluationData: ExampleData | null,
    resumeFrom: string | null = null,
  ) {
    this.#checkOpen();
    const train = await readExamples(trainData);
    const evaluation = evaluationData === null ? null : await readExamples(evaluationData);
    const freeBytes = this.#options.freeBytes ?? null;
    const planned = await planTraining({ model: this.metadata, loaded: true, config, train, evaluation, freeBytes });
    const { refusal } = planned.estimate.memory;
    if (refusal !== null) throw new EngineError('OUT_OF_MEMORY', refusal);
    const facts = runFacts(this.metadata, config, train, evaluation);
    const device = this.#options.deviceName ?? DEVICE_NAME;
    const run = new FakeTrainingRun({
      model: this.metadata,
      ...planned,
      train,
      evaluation,
      beforeStep: this.#options.beforeStep ?? (() => undefined),
      beforeSave: this.#options.beforeSave ?? (() => undefined),
      lossOffset: this.#options.lossOffset ?? (() => 0),
      facts,
      device,
      resumed: resumeFrom === null ? null : await readFakeCheckpoint(resumeFrom, facts, device),
    });
    this.#runs.push(run);
    return run;
  }

  generate(inputIds: Uint32Array, sampling: SamplingConfig, adapter: AdapterHandle | null) {
    this.#checkOpen();
    this.#checkIds(inputIds, adapter);
    const { maxPositionEmbeddings } = this.metadata;
    if (inputIds.length >= maxPositionEmbeddings) {
      const message = `the prompt has ${inputIds.length} tokens; the model's context is ${maxPositionEmbeddings}; shorten it`;
      throw new EngineError('SEQUENCE_TOO_LONG', message);
    }
    const prompt = Array.from(inputIds);
    const maxNewTokens = Math.min(sampling.maxNewTokens, maxPositionEmbeddings - inputIds.length);
    const ids = this.#options.generate?.(prompt) ?? prompt;
    const run = new FakeGenerationRun(
      ids,
      { ...sampling, maxNewTokens },
      this.#options.beforeToken ?? (() => undefined),
    );
    this.#runs.push(run);
    return run;
  }

  /** The id at position i has the log-probability -i; candidate k has the id and the negative logit k. */
  async score(inputIds: Uint32Array, topLogits: number, adapter: AdapterHandle | null): Promise<TokenScores> {
    this.#checkOpen();
    this.#checkIds(inputIds, adapter);
    const length = inputIds.length * topLogits;
    return {
      logprobs: Float32Array.from(inputIds, (_, index) => (index === 0 ? Number.NaN : -index)),
      topTokenIds: Uint32Array.from({ length }, (_, index) => index % topLogits),
      topLogits: Float32Array.from({ length }, (_, index) => -(index % topLogits)),
    };
  }

  close(): void {
    this.#closed = true;
  }

  #checkOpen(): void {
    if (this.#closed) throw new EngineError('CLOSED', `the model ${this.metadata.name} is closed; load it again`);
  }

  #checkIds(ids: Uint32Array, adapter: AdapterHandle | null): void {
    if (ids.length === 0) throw new EngineError('INVALID_ARGUMENT', 'there are no input ids; expected at least one');
    const wrong = ids.find((id) => id >= this.metadata.vocabSize);
    if (wrong !== undefined) {
      const message = `input id ${wrong} is outside the vocabulary of ${this.metadata.vocabSize}`;
      throw new EngineError('INVALID_ARGUMENT', message);
    }
    if (adapter instanceof FakeAdapterHandle && adapter.closed) {
      throw new EngineError('CLOSED', 'the adapter is closed; load it again');
    }
  }
}

/** See the head of the file. Without options every path has the default model, and nothing waits or fails. */
export function createFakeEngine(options: FakeEngineOptions = {}): Engine {
  const runs: Run[] = [];
  let closed = false;
  const checkOpen = (): void => {
    if (closed) throw new EngineError('CLOSED', 'the engine is closed; open a new one');
  };
  const metadataAt = (path: string): ModelMetadata => {
    checkOpen();
    const models = options.models ?? null;
    const given = models === null ? {} : Object.hasOwn(models, path) ? models[path] : undefined;
    if (given === undefined) throw new EngineError('MODEL_NOT_FOUND', `there is no model at ${path}`);
    return fakeMetadata(path, given);
  };
  return {
    hasEncoders: false,
    info: () => ({
      version: '0.0.0',
      device: 'cpu',
      devices: ['cpu'],
      deviceName: options.deviceName ?? DEVICE_NAME,
      threads: 1,
      instructionSet: 'scalar',
      computeDtype: 'float32',
      attention: 'none',
      totalMemoryBytes: 1 << 30,
      deviceReason: 'fake',
      gpus: [],
    }),
    readMetadata: async (path) => metadataAt(path),
    loadModel: async (path, storage) => {
      const metadata = metadataAt(path);
      await options.beforeLoad?.(path, storage);
      return new FakeModel(metadata, storage, options, runs);
    },
    weightBytes: async (path, storages) => {
      const { storedBytes } = metadataAt(path);
      return storages.map(() => storedBytes);
    },
    quantizeModel: (path, storage, folder) => {
      const { storedBytes } = metadataAt(path);
      let cancelled = false;
      const work = async (): Promise<number> => {
        await options.beforeQuantize?.(folder);
        if (cancelled) throw new EngineError('CANCELLED', 'the quantization was cancelled');
        await writeFile(join(folder, 'config.json'), JSON.stringify({ storage }));
        return storedBytes;
      };
      const progress = { writtenBytes: storedBytes, totalBytes: storedBytes };
      const cancel = (): void => {
        cancelled = true;
      };
      return { progress: () => progress, cancel, finished: work() };
    },
    checkTargets: ({ targetModules, excludeModules }) => {
      for (const pattern of [targetModules, excludeModules]) {
        if (typeof pattern === 'string') readPattern(pattern);
      }
    },
    estimateTraining: async ({ path, loaded }, config, trainData, evaluationData) => {
      const [model, freeBytes] = [metadataAt(path), options.freeBytes ?? null];
      const train = await readExamples(trainData);
      const evaluation = evaluationData === null ? null : await readExamples(evaluationData);
      return (await planTraining({ model, loaded, config, train, evaluation, freeBytes })).estimate;
    },
    readAdapter: async (folder) => {
      checkOpen();
      return (await readFakeAdapter(folder)).info;
    },
    mergeAdapter: async ({ path, contentHash }, adapter, format, folder) => {
      const model = metadataAt(path);
      const info = await readFakeAdapterFor(model, adapter, contentHash === null);
      const text = JSON.stringify({ base: model.contentHash, adapter: info.sha256, format });
      await writeFile(join(folder, 'config.json'), text);
      return { bytes: text.length, dequantizedFrom: null, hasTokenizer: true };
    },
    close: async () => {
      closed = true;
      const error = new EngineError('CLOSED', 'the engine was closed while this was running');
      for (const run of runs.splice(0)) run.fail(error);
    },
  };
}
