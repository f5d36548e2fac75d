import type { BaseModel, ModelMetadata } from '../engine/engine.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import type { Renderer } from '../prompt/renderer.ts';
import type { EncodeOptions, Tokenizer } from '../tokenizer/tokenizer.ts';

/** One form of a model's weights in memory. */
interface LoadedWeights {
  readonly loadIn: LoadIn;
  /** Type of the linear layers' weights, such as `nf4`. */
  readonly storageType: string;
  readonly loadedBytes: number;
  /** Leases held now. */
  readonly users: number;
}

/** A base model that the server knows. */
export interface RegisteredModel {
  /** `models/{id}`. */
  readonly name: string;
  readonly metadata: ModelMetadata;
  /** Every form that is in memory. */
  readonly loaded: readonly LoadedWeights[];
  /** Leases held now, and loads under way. */
  readonly users: number;
}

/** A loaded model, kept in memory until `release`. */
export interface ModelLease {
  readonly registered: RegisteredModel;
  readonly model: BaseModel;
  /** Idempotent. */
  release(): void;
}

/**
 * The base models: registered by name or by path under a configured root, loaded on demand, shared, counted.
 * Every `model` below is `models/{id}`, a bare id, or a path.
 */
export interface ModelRegistry {
  /** Whether the engine's addon may encode data sets. */
  readonly nativeEncoders: boolean;
  /** Resolves when the configured models' files have been looked at; those that could not be read are logged and not listed. */
  ready(): Promise<void>;
  /** Registers a path where needed. Throws MODEL_NOT_FOUND, PATH_NOT_ALLOWED, MODEL_CORRUPT, MODEL_UNSUPPORTED. */
  get(model: string): Promise<RegisteredModel>;
  /** By name, ascending. */
  list(): readonly RegisteredModel[];
  /** Loads where needed; concurrent calls load once. Each form is loaded for itself; unspecified: as stored. */
  acquire(model: string, loadIn?: LoadIn): Promise<ModelLease>;
  /** Frees the memory of every form; throws MODEL_IN_USE while leases are held. */
  unload(model: string): Promise<RegisteredModel>;
  /** Without loading tensors; cached. Throws TOKENIZER_UNSUPPORTED. */
  tokenizer(model: string): Promise<Tokenizer>;
  /** Text to ids; long texts on a worker thread. Throws TOKENIZER_UNSUPPORTED. */
  encode(model: string, text: string, options: EncodeOptions): Promise<Uint32Array>;
  /** `template`: an id, or empty for the model's chat template. Throws TEMPLATE_NOT_FOUND, TEMPLATE_UNUSABLE. */
  renderer(model: string, template: string): Promise<Renderer>;
  close(): Promise<void>;
}
