/** The Rust addon's objects and classes as they are; `native.ts` makes the engine's interface of them. Names and order as in `engine/binding`. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import type {
  AdapterInfo,
  AdapterMetadata,
  BaseModel,
  EngineInfo,
  EvaluationResult,
  GeneratedTokens,
  GgufTokenizerMetadata,
  LoraConfig,
  ModelMetadata,
  SamplingConfig,
  SavedAdapter,
  TokenExamples,
  TokenScores,
  TrainingConfig,
  TrainingStep,
  WeightStorage,
} from './engine.ts';
import { EngineError } from './errors.ts';

export interface NativeModelMetadata extends Omit<ModelMetadata, 'tokenizer'> {
  readonly tokenizerGguf: GgufTokenizerMetadata | null;
  readonly tokenizerFolder: string | null;
}

type NativeModelWeights = Pick<BaseModel, 'storage' | 'storageType' | 'loadedBytes'>;

export interface NativeTrainingConfig
  extends Omit<TrainingConfig, 'lora' | 'initAdapterPath' | 'maxSteps' | 'evalSteps'> {
  readonly lora: Omit<LoraConfig, 'targetModules'> & { readonly targetModules: string[] | undefined };
  readonly initAdapterPath: string | undefined;
  readonly maxSteps: number | undefined;
  readonly evalSteps: number | undefined;
}

export interface NativeTrainingEvent {
  readonly kind: 'started' | 'step' | 'evaluation' | 'finished' | 'cancelled';
  readonly plan: {
    readonly maxSteps: number;
    readonly trainableParameters: number;
    readonly targetModules: readonly string[];
  } | null;
  readonly step: TrainingStep | null;
  readonly evaluation: EvaluationResult | null;
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
  loadAdapter(folder: string): Promise<NativeAdapter>;
  train(
    config: NativeTrainingConfig,
    train: TokenExamples,
    evaluation: TokenExamples | null,
  ): Promise<NativeTrainingRun>;
  generate(inputIds: Uint32Array, sampling: SamplingConfig, adapter: NativeAdapter | null): NativeGenerationRun;
  score(inputIds: Uint32Array, topLogits: number, adapter: NativeAdapter | null): Promise<TokenScores>;
  close(): void;
}

export interface NativeEngine {
  info(): EngineInfo;
  readMetadata(path: string): Promise<NativeModelMetadata>;
  loadModel(path: string, storage: WeightStorage): Promise<NativeModel>;
  readAdapter(folder: string): Promise<AdapterInfo>;
  close(): Promise<void>;
}

interface Addon {
  readonly NativeEngine: new (threads: number | null) => NativeEngine;
}

/** Where `npm run build` leaves the addon. */
const ADDON = fileURLToPath(new URL('../../engine/binding/luthier.node', import.meta.url));

/** Loads the addon. Throws INTERNAL, saying how to build it, where it is missing or made for another machine. */
export function loadAddon(): Addon {
  if (!existsSync(ADDON)) {
    throw new EngineError('INTERNAL', `the engine is not built: there is no ${ADDON}; run \`npm run build\``);
  }
  try {
    return createRequire(import.meta.url)(ADDON) as Addon;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new EngineError('INTERNAL', `the engine cannot be loaded: ${reason}; run \`npm run build\` on this machine`, {
      cause,
    });
  }
}
