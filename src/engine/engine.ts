/**
 * What the server asks of the engine. Two implementations: `native.ts` (the Rust addon) and `fake.ts` (tests).
 *
 * Everything here is about ids and numbers. This file knows nothing of text, prompts, gRPC or jobs.
 * Absent values are `null`, never `undefined`: a forgotten field is a type error, not a silent default.
 */
import type { Gpu } from './gpus.ts';

/** The device the engine computes on, and what it may use. */
export interface EngineInfo {
  readonly version: string;
  /** `cpu` or `cuda:n`. */
  readonly device: string;
  /** All that train together, by rank: `device` alone, or several. */
  readonly devices: readonly string[];
  /** The processor's or GPU's name as the system gives it. */
  readonly deviceName: string;
  /** Threads used for matrix products. */
  readonly threads: number;
  /** Instruction set of the matrix kernels: `avx512`, `avx2`, `neon` or `scalar`. */
  readonly instructionSet: string;
  /** Type of the activations in training, as torch names it: `float32`, `bfloat16` or `float16`. */
  readonly computeDtype: string;
  /** What computes attention in training, for people: `own kernels`, or a library with its version. */
  readonly attention: string;
  readonly totalMemoryBytes: number;
  /** Why this device was chosen, as a clause for people. */
  readonly deviceReason: string;
  /** The GPUs found when it was chosen; empty where none was looked for. */
  readonly gpus: readonly Gpu[];
}

/** Where a tokenizer can be read from. */
export type TokenizerSource =
  | { readonly kind: 'gguf'; readonly metadata: GgufTokenizerMetadata }
  /** The folder holds `tokenizer.json`, or sentencepiece's `tokenizer.model` or `spiece.model`. */
  | { readonly kind: 'huggingface'; readonly folder: string };

/** The `tokenizer.ggml.*` keys of a GGUF file, unchanged. */
export interface GgufTokenizerMetadata {
  /** `gpt2` (byte-level BPE) or `llama` (sentencepiece). */
  readonly model: string;
  /** Pre-tokenizer name, such as `smollm`, `llama-bpe`, `qwen2`. */
  readonly pre: string | null;
  readonly tokens: readonly string[];
  readonly scores: Float32Array | null;
  /** llama.cpp's token types: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. */
  readonly tokenTypes: Int32Array | null;
  readonly merges: readonly string[] | null;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly eotTokenId: number | null;
  readonly unknownTokenId: number | null;
  readonly paddingTokenId: number | null;
  readonly addBosToken: boolean | null;
  readonly addEosToken: boolean | null;
  readonly addSpacePrefix: boolean | null;
  readonly chatTemplate: string | null;
}

/** What a model's files say, read without loading a tensor. */
export interface ModelMetadata {
  readonly path: string;
  /** `gguf`, `safetensors` or `pytorch`. */
  readonly format: string;
  /** `model_type` of Hugging Face, such as `llama`. */
  readonly architecture: string;
  readonly name: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  readonly tieWordEmbeddings: boolean;
  readonly ropeTheta: number;
  readonly rmsNormEps: number;
  /** Parameters, tied tensors counted once. */
  readonly parameterCount: number;
  /** Bytes of the tensors as stored. */
  readonly storedBytes: number;
  /** The stored type that holds most bytes, such as `q4_1`, `f32`. */
  readonly storageType: string;
  /** SHA-256 over config and tensors as the engine reads them; hex. */
  readonly contentHash: string;
  /** End-of-sequence ids from the files' own configuration. */
  readonly eosTokenIds: readonly number[];
  /** Full names of the modules that LoRA may target, without the layer prefix, such as `q_proj`. */
  readonly linearModules: readonly string[];
  readonly tokenizer: TokenizerSource;
}

export interface LoraConfig {
  readonly r: number;
  readonly loraAlpha: number;
  /** Share of a layer's input that its low-rank half does not see in training; also where training starts from an existing adapter. */
  readonly loraDropout: number;
  readonly useRslora: boolean;
  /** Seed of the initial A and of dropout. */
  readonly seed: number;
  /**
   * Module names such as `q_proj`, or longer ends of module paths; a text: a regular expression that a whole path must match; null: every
   * linear layer but the output layer.
   */
  readonly targetModules: readonly string[] | string | null;
  /** Named as `targetModules`; null: none. */
  readonly excludeModules: readonly string[] | string | null;
  /** Blocks whose layers are adapted; null: all. Not with a regular expression as `targetModules`. */
  readonly layersToTransform: readonly number[] | null;
  /** Regular expressions of what stands before a block's number; empty: anything. */
  readonly layersPattern: readonly string[];
  /** Ranks other than `r` by module name, end of a path or regular expression of one. */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** The same for `loraAlpha`. */
  readonly alphaPattern: Readonly<Record<string, number>>;
}

/** transformers' `lr_scheduler_kwargs`; what is absent has its default. */
export interface LrSchedulerKwargs {
  readonly numCycles?: number | undefined;
  readonly power?: number | undefined;
  readonly lrEnd?: number | undefined;
  readonly timescale?: number | undefined;
  readonly minLr?: number | undefined;
  readonly minLrRate?: number | undefined;
  readonly warmupLrRate?: number | undefined;
  readonly numDecaySteps?: number | undefined;
  readonly numStableSteps?: number | undefined;
  readonly warmupType?: string | undefined;
  readonly decayType?: string | undefined;
  readonly minLrRatio?: number | undefined;
}

export interface TrainingConfig {
  readonly lora: LoraConfig;
  /** Folder of a PEFT adapter to start from, or null. Its rank, alpha and targets are then taken from it. */
  readonly initAdapterPath: string | null;
  /** Accept one that carries the content hash of another base, if names and shapes fit. */
  readonly initAdapterAnyBase: boolean;
  /** `adamw_torch`, `adamw_torch_fused`, `adamw_8bit`, `adamw_bnb_8bit`. */
  readonly optim: string;
  readonly learningRate: number;
  /** Times the learning rate: that of every B. 1: off. */
  readonly loraplusLrRatio: number;
  /** transformers' names. */
  readonly lrSchedulerType: string;
  readonly lrSchedulerKwargs: LrSchedulerKwargs;
  /** Steps; below 1: a share of all steps, rounded up. */
  readonly warmupSteps: number;
  readonly weightDecay: number;
  readonly adamBeta1: number;
  readonly adamBeta2: number;
  readonly adamEpsilon: number;
  /** Global 2-norm that gradients are clipped to; 0: off. */
  readonly maxGradNorm: number;
  /** Share of the goal that is spread over the vocabulary, in training and evaluation; 0: off. */
  readonly labelSmoothingFactor: number;
  /** Noise on the embeddings in training; 0: off. */
  readonly neftuneNoiseAlpha: number;
  /** `tokens`, `microbatch_mean`. */
  readonly lossNormalization: string;
  readonly perDeviceTrainBatchSize: number;
  readonly gradientAccumulationSteps: number;
  readonly numTrainEpochs: number;
  /** Positive: overrides the epochs. */
  readonly maxSteps: number | null;
  readonly perDeviceEvalBatchSize: number;
  /** Evaluate every n steps; null: at each epoch's end. Always once before the first step and once at the end, where there is evaluation data. */
  readonly evalSteps: number | null;
  /** `eval_loss` (`trainerLoss`), `eval_token_loss` (`loss`). */
  readonly metricForBestModel: string;
  /** The run's adapter is that of the best evaluation after a step. */
  readonly loadBestModelAtEnd: boolean;
  /** Evaluations in a row without an improvement after which the run ends; null: never. */
  readonly earlyStoppingPatience: number | null;
  /** An improvement must be larger. */
  readonly earlyStoppingThreshold: number;
  /** Steps of the run that may be skipped because loss or gradients are no finite numbers; the next one is an error. */
  readonly maxNonFiniteSteps: number;
  /** Take a checkpoint every so many steps, as `requestCheckpoint`; null: only when asked. */
  readonly saveSteps: number | null;
  /** True: torch's order from dataSeed + epoch; false: file order. */
  readonly shuffle: boolean;
  readonly dataSeed: number;
  /** Micro-batches of examples of about equal lengths, as transformers' LengthGroupedSampler. Not without `shuffle`. */
  readonly groupByLength: boolean;
  /**
   * Whole examples are packed into sequences of at most so many tokens, which are what `perDeviceTrainBatchSize` counts; attention stays within
   * each example. Null: not packed. Not with `groupByLength`.
   */
  readonly packingLength: number | null;
  /**
   * Of how many blocks, the first ones, the backward pass computes activations again instead of keeping them: `auto`: of as few as fit into the
   * memory that is free. More than there are: of all.
   */
  readonly recomputeLayers: number | 'auto' | 'all';
  /** On a GPU: the inputs of those, and what takes longest to compute again, wait in locked memory of the host for the backward pass. */
  readonly offloadActivations: boolean;
}

/** Settings to change so that a run fits; null: stays. */
export interface MemorySuggestion {
  /** For people. */
  readonly description: string;
  readonly totalBytes: number;
  readonly recomputeLayers: number | null;
  /** False: stays. */
  readonly offloadActivations: boolean;
  readonly perDeviceTrainBatchSize: number | null;
  readonly gradientAccumulationSteps: number | null;
  readonly perDeviceEvalBatchSize: number | null;
  readonly loadIn4bit: boolean;
  readonly maxSeqLength: number | null;
}

/** Bytes on the device at a run's peak, by part, beside what there is. */
export interface MemoryEstimate {
  /** All parts together. */
  readonly totalBytes: number;
  readonly weightBytes: number;
  /** The adapter, its gradients and moments. */
  readonly adapterBytes: number;
  readonly activationBytes: number;
  readonly evaluationBytes: number;
  readonly scratchBytes: number;
  /** Beside the total: locked memory of the host that a GPU uses. */
  readonly pinnedHostBytes: number;
  /** Of the total, those that a loaded model and earlier work hold already. */
  readonly heldBytes: number;
  /** Null: unknown, and every plan fits. */
  readonly freeBytes: number | null;
  /** Of the free bytes, those that a plan leaves alone. */
  readonly marginBytes: number;
  readonly recomputeLayers: number;
  /** As asked for: the inputs of those wait in the host's memory. */
  readonly offloadActivations: boolean;
  /** Blocks of the model. */
  readonly layers: number;
  /** Null where it fits; else why a run is refused, with the numbers and what would fit. */
  readonly refusal: string | null;
  /** Where it does not fit: what would. */
  readonly suggestions: readonly MemorySuggestion[];
}

/** What packing makes of the training examples. */
interface PackingEstimate {
  /** Of an epoch. */
  readonly sequences: number;
  /** Share of the sequences' places that tokens take. */
  readonly utilization: number;
}

/** What a run will be and need. */
export interface TrainingEstimate {
  /** Of training, once. */
  readonly examples: number;
  readonly tokens: number;
  /** Labels that are learned. */
  readonly labelTokens: number;
  readonly evalExamples: number;
  /** Null where examples are not packed. */
  readonly packing: PackingEstimate | null;
  readonly maxSteps: number;
  /** Tokens of all steps. */
  readonly runTokens: number;
  readonly trainableParameters: number;
  readonly targetModules: readonly string[];
  readonly memory: MemoryEstimate;
}

/** A base model that need not be loaded. */
export interface EstimatedModel {
  readonly path: string;
  readonly storage: WeightStorage;
  /** Whether it is loaded in this form. */
  readonly loaded: boolean;
  /** As `ModelMetadata.contentHash`: what an adapter to start from must have been made for. */
  readonly contentHash: string;
}

/** Examples, concatenated. Example i is `[offsets[i], offsets[i+1])`. Labels are not shifted; -100 is ignored. */
export interface TokenExamples {
  readonly inputIds: Uint32Array;
  readonly labels: Int32Array;
  readonly offsets: Uint32Array;
}

/** Examples in a file of the layout of `token-file.ts`, which the engine maps. */
export interface TokenFile {
  readonly path: string;
  /** All of its examples, those that are not held out, or those that are. */
  readonly part: 'all' | 'train' | 'evaluation';
  /** Share that is held out: the examples whose stored hash, as a share of the largest, is below. */
  readonly heldOut: number;
}

export type ExampleData = TokenExamples | TokenFile;

export interface TrainingStep {
  readonly globalStep: number;
  readonly maxSteps: number;
  /** Epochs done after this step, fractional. */
  readonly epoch: number;
  readonly loss: number;
  /** Global 2-norm before clipping. */
  readonly gradNorm: number;
  /** The rate this step used. */
  readonly learningRate: number;
  /** Tokens and labelled positions of this step. */
  readonly tokens: number;
  readonly labelTokens: number;
  readonly tokensPerSecond: number;
  /** Bytes the engine has allocated now and at most. */
  readonly allocatedBytes: number;
  readonly peakAllocatedBytes: number;
  readonly etaSeconds: number;
  /** Nothing was updated: the gradients overflowed float16, or they or the loss are no finite numbers. `gradNorm` is then not finite. */
  readonly skipped: boolean;
  /** Steps skipped so far, this one included. */
  readonly skippedSteps: number;
  /** What each device did, by rank. */
  readonly devices: readonly DeviceStep[];
}

/** One device's part of a step. */
interface DeviceStep {
  readonly tokensPerSecond: number;
  readonly allocatedBytes: number;
  readonly peakAllocatedBytes: number;
  /** Share of the step in which it waited for gradients to be summed; 0 of one device alone. */
  readonly communicationShare: number;
}

export interface EvaluationResult {
  readonly globalStep: number;
  readonly epoch: number;
  /** Mean negative log-likelihood per labelled token. */
  readonly loss: number;
  /** Mean of the batches' means, each repeated for its examples, as transformers' Trainer reports it. */
  readonly trainerLoss: number;
  readonly labelTokens: number;
  readonly examples: number;
  /** The best after a step so far, by `metricForBestModel`. */
  readonly best: boolean;
  /** Early stopping: the run ends with it. */
  readonly stops: boolean;
}

export type TrainingEvent =
  | ({ readonly kind: 'started'; readonly resumed: ResumedRun | null } & TrainingEstimate)
  | { readonly kind: 'step'; readonly step: TrainingStep }
  | { readonly kind: 'evaluation'; readonly evaluation: EvaluationResult }
  /** A checkpoint was taken, after everything told before: `saveCheckpoint` writes it. */
  | { readonly kind: 'checkpoint'; readonly globalStep: number }
  | { readonly kind: 'finished' }
  | { readonly kind: 'cancelled' }
  /** `pause` took effect. `saveCheckpoint` writes what the run needs to go on. */
  | { readonly kind: 'paused'; readonly globalStep: number };

/** A run that goes on from a checkpoint. */
export interface ResumedRun {
  /** Steps done before. */
  readonly globalStep: number;
  /**
   * What differs from where the checkpoint was taken, such as the instruction set or the number of threads, each as text for people. Not empty:
   * the last digits of what follows may differ from the uninterrupted run.
   */
  readonly differences: readonly string[];
}

/** A checkpoint's file, on the disk. */
interface CheckpointFile {
  readonly name: string;
  readonly bytes: number;
  /** Hex. */
  readonly sha256: string;
}

/** A checkpoint on the disk. */
export interface SavedCheckpoint {
  /** Steps done. */
  readonly globalStep: number;
  readonly files: readonly CheckpointFile[];
}

export interface TrainingRun {
  /** Every event once, in order; may be iterated once. Throws EngineError where the run fails. Reading slowly never slows the run. */
  events(): AsyncIterable<TrainingEvent>;
  /** Takes effect within one micro-step; `events` then ends with `cancelled`. Idempotent. */
  cancel(): void;
  /**
   * Takes a checkpoint after the step under way and its evaluation; a `checkpoint` event tells of it. The run waits only for the copy in memory.
   * Asked for again before that event: one checkpoint.
   */
  requestCheckpoint(): void;
  /** Takes effect within one micro-step, like `cancel`, but keeps what the run needs to go on: `events` ends with `paused`. Idempotent. */
  pause(): void;
  /** The step under way is the last one: evaluation and best adapter follow as after `maxSteps`, then `finished`. Idempotent. */
  stopAfterStep(): void;
  /**
   * Writes the checkpoint of the latest `checkpoint` or `paused` event into an existing folder, through to the disk, while the run goes on.
   * Errors: INVALID_ARGUMENT where there is none, STORAGE_FULL, IO. Half a folder is left where it fails.
   */
  saveCheckpoint(folder: string): Promise<SavedCheckpoint>;
  /** Writes adapter_config.json and adapter_model.safetensors into a folder, which must exist. After `finished` or `cancelled`. */
  saveAdapter(folder: string, metadata: AdapterMetadata): Promise<SavedAdapter>;
  /** Frees the run's memory. Idempotent. */
  close(): void;
}

/** What Luthier adds to an exported adapter; written to the metadata of adapter_model.safetensors. */
export interface AdapterMetadata {
  readonly baseModelName: string;
  readonly baseModelHash: string;
  readonly templateId: string;
  readonly templateHash: string;
  /** The template as the text of a file, where the base's own files do not hold it; else empty. */
  readonly template: string;
}

export interface SavedAdapter {
  readonly bytes: number;
  /** SHA-256 of the file with the weights; hex. */
  readonly sha256: string;
}

export interface AdapterInfo {
  readonly r: number;
  readonly loraAlpha: number;
  readonly useRslora: boolean;
  readonly targetModules: readonly string[];
  readonly parameterCount: number;
  readonly sha256: string;
  /** What the adapter carries about its origin; null where it does not. */
  readonly metadata: AdapterMetadata | null;
}

/** A base to merge into; its files are read, it need not be loaded. */
export interface MergeBase {
  readonly path: string;
  /** What the adapter must have been made for; null: any base that it fits. */
  readonly contentHash: string | null;
  /** How weights are held before the adapter is added. */
  readonly storage: WeightStorage;
}

export type MergeFormat = 'safetensors_bf16' | 'safetensors_f16' | 'gguf_f16' | 'gguf_q8_0';

export interface MergedModel {
  /** Of all files. */
  readonly bytes: number;
  /** The type that most weights were dequantized from, such as `q4_1`; null: none were. */
  readonly dequantizedFrom: string | null;
  /** Whether what was written has the base's tokenizer. */
  readonly hasTokenizer: boolean;
}

/** An adapter in memory beside its base model. */
export interface AdapterHandle {
  readonly info: AdapterInfo;
  close(): void;
}

export interface SamplingConfig {
  readonly maxNewTokens: number;
  /** 0: greedy. */
  readonly temperature: number;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. */
  readonly topP: number;
  /** 0: off. */
  readonly minP: number;
  /** 1: off. */
  readonly repetitionPenalty: number;
  readonly seed: number;
  /** Generation ends when one of these is drawn; it is reported, not part of the text. */
  readonly eosTokenIds: readonly number[];
}

export interface GeneratedTokens {
  readonly tokenIds: Uint32Array;
  /** Natural-log probability of each id under the raw logits (before penalties and temperature). */
  readonly logprobs: Float32Array;
  /** Set on the last batch: `eos`, `length` or `cancelled`. */
  readonly finishReason: 'eos' | 'length' | 'cancelled' | null;
  /** The id that ended the sequence; only with `eos`. */
  readonly eosTokenId: number | null;
}

export interface GenerationRun {
  /** Batches of at least one token as they are drawn (the last may be empty). May be iterated once; leaving the loop cancels. */
  tokens(): AsyncIterable<GeneratedTokens>;
  /** Stops computing within one token. Idempotent. */
  cancel(): void;
}

export interface TokenScores {
  /** One per input id; NaN for the first. */
  readonly logprobs: Float32Array;
  /** Row-major [inputIds.length, topLogits]: for each position, the ids and raw logits of its highest next-token logits. */
  readonly topTokenIds: Uint32Array;
  readonly topLogits: Float32Array;
}

/**
 * How the weights of linear layers are held, all but the output layer's: as the files have them, in 16 bits, in 8 (one scale for each row), or in
 * 4 (one scale for each block of 64; with double quantization those are 8-bit codes themselves).
 */
export type WeightStorage = 'stored' | 'bf16' | 'f16' | 'int8' | 'nf4' | 'nf4_double_quant';

/** A base model in memory: immutable, shared by any number of runs. */
export interface BaseModel {
  /** What the files say, however the weights are held. */
  readonly metadata: ModelMetadata;
  readonly storage: WeightStorage;
  /** The type of the linear layers' weights, such as `nf4`; as stored, the one that holds most bytes of the files. */
  readonly storageType: string;
  /** Bytes of the weights as they are held, mapped files included. */
  readonly loadedBytes: number;
  /** @param anyBase Accept one that carries the content hash of another base, if names and shapes fit. */
  loadAdapter(folder: string, anyBase: boolean): Promise<AdapterHandle>;
  /**
   * OUT_OF_MEMORY before anything is allocated where the run's plan does not fit.
   * @param resumeFrom A folder that `saveCheckpoint` filled, to go on from: the run's events are those after the checkpoint's, and every loss and
   * the adapter are those of the uninterrupted run, bit for bit. Errors: CHECKPOINT_CORRUPT where files are missing or not as written;
   * CHECKPOINT_MISMATCH where settings, data or model differ, saying what. Null: from the start.
   */
  train(
    config: TrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
    resumeFrom?: string | null,
  ): Promise<TrainingRun>;
  generate(inputIds: Uint32Array, sampling: SamplingConfig, adapter: AdapterHandle | null): GenerationRun;
  score(inputIds: Uint32Array, topLogits: number, adapter: AdapterHandle | null): Promise<TokenScores>;
  /** Frees the weights once no run uses them. Idempotent; use after close is an error. */
  close(): void;
}

/** A model being quantized ahead. */
export interface QuantizeRun {
  /** Bytes of tensors; the total is 0 until it is known. */
  progress(): { readonly writtenBytes: number; readonly totalBytes: number };
  /** Ends it after the tensor that is being written. */
  cancel(): void;
  /** Bytes of all files, once they are on the disk. */
  readonly finished: Promise<number>;
}

export interface Engine {
  /** Whether worker threads may encode data sets with this engine's addon: `nativeEncoders`. */
  readonly hasEncoders: boolean;
  info(): EngineInfo;
  /** Reads headers only. `path`: a .gguf file or a Hugging Face folder. */
  readMetadata(path: string): Promise<ModelMetadata>;
  /**
   * Bytes of the device's memory that a model's weights take in each form: `BaseModel.loadedBytes`, rounded up as the device allocates.
   * Reads headers only, whether or not each weight fits the form. Errors: those of `readMetadata`.
   */
  weightBytes(path: string, storages: readonly WeightStorage[]): Promise<readonly number[]>;
  /** MODEL_UNSUPPORTED where a weight does not fit the storage type, such as a number beyond the range of f16. */
  loadModel(path: string, storage: WeightStorage): Promise<BaseModel>;
  /**
   * Starts writing a model with its linear layers quantized into an existing empty folder. `path`: a Hugging Face folder with weights in 16 or
   * 32 bits. Half a folder is left where it fails. Errors of `finished`: those of `loadModel`, STORAGE_FULL, IO, CANCELLED.
   */
  quantizeModel(path: string, storage: WeightStorage, folder: string): QuantizeRun;
  /** Reads the regular expressions of a new adapter's settings. @throws EngineError INVALID_ARGUMENT for one that cannot be read */
  checkTargets(lora: LoraConfig): void;
  /**
   * What a run would be and need, as the device's memory is now. Reads headers only; a run that does not fit is no error. Throws what `train`
   * throws otherwise.
   */
  estimateTraining(
    model: EstimatedModel,
    config: TrainingConfig,
    train: ExampleData,
    evaluation: ExampleData | null,
  ): Promise<TrainingEstimate>;
  /** Reads and checks an adapter's files without a base model. */
  readAdapter(folder: string): Promise<AdapterInfo>;
  /**
   * Writes base and adapter as one model into an existing empty folder, through to the disk.
   * @param adapter A PEFT folder.
   */
  mergeAdapter(base: MergeBase, adapter: string, format: MergeFormat, folder: string): Promise<MergedModel>;
  close(): Promise<void>;
}
