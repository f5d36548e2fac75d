import type { BaseModel, ModelMetadata } from '../engine/engine.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import type { Renderer } from '../prompt/renderer.ts';
import type { EncodeOptions, Tokenizer } from '../tokenizer/tokenizer.ts';
import type { ModelFacts } from './imported-models.ts';

/** One form of a model's weights in memory. */
interface LoadedWeights {
  readonly loadIn: LoadIn;
  /** Type of the linear layers' weights, such as `nf4`. */
  readonly storageType: string;
  readonly loadedBytes: number;
  /** Leases held now. */
  readonly users: number;
}

/** A base model that the server knows, whether or not its files were read since the server started. */
export interface KnownModel {
  /** `models/{id}`. */
  readonly name: string;
  readonly metadata: ModelFacts;
  /** Whether its files carry one. */
  readonly hasChatTemplate: boolean;
  /** Null: the server's own settings name it, or a path named it since the server started. */
  readonly importTime: Date | null;
  /** Every form that is in memory. */
  readonly loaded: readonly LoadedWeights[];
  /** Leases held now, and loads under way. */
  readonly users: number;
}

/** A base model whose files were read. */
export interface RegisteredModel extends KnownModel {
  readonly metadata: ModelMetadata;
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
  /** By name, ascending. Reads no files. */
  list(): readonly KnownModel[];
  /**
   * Remembers a model by path, also after a restart; nothing is copied. Importing again takes the files as they are now.
   * @param id Empty: the one that the path has, or one made from it.
   * @throws LuthierError MODEL_EXISTS, MODEL_IN_USE where a path in use would get another name; those of `get`
   */
  import(path: string, id: string): Promise<RegisteredModel>;
  /** Remembers a model that was named by path, so that what is stored may refer to it. */
  keep(model: string): Promise<void>;
  /**
   * Forgets an import, or a path that was named, and frees its memory. Its files stay.
   * @param commit Runs the change of the database, perhaps with others in one transaction; is told the model's name.
   * @returns Its name.
   * @throws LuthierError MODEL_NOT_FOUND, MODEL_IN_USE, INVALID_STATE for one of the server's own settings
   */
  delete(model: string, commit?: (change: () => void, name: string) => void): Promise<string>;
  /**
   * Refuses an import whose files changed since; of any other model, takes the files as they are now. Loading does so, too.
   * @throws LuthierError MODEL_CHANGED; those of `get`
   */
  checkFiles(model: string): Promise<void>;
  /** What `checkFiles` would refuse an import with; empty: nothing. Takes names only, and reads no other model. */
  changes(name: string): Promise<string>;
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
