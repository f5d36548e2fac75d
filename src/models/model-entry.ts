import type { BaseModel, Engine, ModelMetadata } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { Renderer } from '../prompt/renderer.ts';
import type { TokenizerPool } from '../tokenizer/pool.ts';
import type { EncodeOptions, Tokenizer } from '../tokenizer/tokenizer.ts';
import type { ModelLease, RegisteredModel } from './model-registry.ts';

/** One base model: what its files say, its weights while somebody needs them, its tokenizer and its renderers. */
export class ModelEntry {
  readonly id: string;
  readonly path: string;
  readonly #engine: Engine;
  #metadata: ModelMetadata;
  #model: Promise<BaseModel> | null = null;
  #loaded: BaseModel | null = null;
  #users = 0;
  #tokenizer: Promise<Tokenizer> | null = null;
  #pool: Promise<TokenizerPool> | null = null;
  readonly #renderers = new Map<string, Promise<Renderer>>();

  constructor(id: string, engine: Engine, metadata: ModelMetadata, path: string) {
    this.id = id;
    this.path = path;
    this.#engine = engine;
    this.#metadata = metadata;
  }

  registered(): RegisteredModel {
    return {
      name: `models/${this.id}`,
      metadata: this.#metadata,
      loaded: this.#loaded !== null,
      loadedBytes: this.#loaded?.loadedBytes ?? 0,
      users: this.#users,
    };
  }

  async acquire(): Promise<ModelLease> {
    // Counted before the first await: a load under way is use, too.
    this.#users += 1;
    try {
      this.#model ??= this.#load();
      const model = await this.#model;
      return this.#lease(model);
    } catch (error) {
      this.#users -= 1;
      throw toLuthierError(error);
    }
  }

  unload(): void {
    if (this.#users > 0) {
      throw new LuthierError(
        'MODEL_IN_USE',
        `models/${this.id} is used by ${this.#users} jobs and streams; repeat when they have ended`,
        { resource: { type: 'model', name: `models/${this.id}` } },
      );
    }
    this.#free();
  }

  async close(): Promise<void> {
    this.#free();
    await (await this.#pool?.catch(() => null))?.close();
  }

  async encode(text: string, options: EncodeOptions): Promise<Uint32Array> {
    if (this.#pool === null) {
      const starting = this.#startPool();
      this.#pool = starting;
      starting.catch(() => {
        if (this.#pool === starting) this.#pool = null;
      });
    }
    return (await this.#pool).encode(text, options);
  }

  #free(): void {
    this.#loaded?.close();
    this.#loaded = null;
    this.#model = null;
  }

  tokenizer(): Promise<Tokenizer> {
    this.#tokenizer ??= this.#readTokenizer();
    return this.#tokenizer;
  }

  renderer(template: string): Promise<Renderer> {
    const known = this.#renderers.get(template);
    if (known) return known;
    const made = this.#makeRenderer(template);
    this.#renderers.set(template, made);
    made.catch(() => this.#renderers.delete(template));
    return made;
  }

  async #load(): Promise<BaseModel> {
    try {
      const model = await this.#engine.loadModel(this.path);
      if (model.metadata.contentHash !== this.#metadata.contentHash) this.#filesChanged();
      this.#metadata = model.metadata;
      this.#loaded = model;
      return model;
    } catch (error) {
      this.#model = null;
      throw error;
    }
  }

  /** The files were replaced since they were registered: what was made from the old ones is void. */
  #filesChanged(): void {
    void this.#pool?.then((pool) => pool.close());
    this.#pool = null;
    this.#tokenizer = null;
    this.#renderers.clear();
  }

  #lease(model: BaseModel): ModelLease {
    let held = true;
    const registered = this.registered();
    const release = (): void => {
      if (held) this.#users -= 1;
      held = false;
    };
    return { registered, model, release };
  }

  async #readTokenizer(): Promise<Tokenizer> {
    try {
      const { loadTokenizer } = await import('../tokenizer/load.ts');
      return await loadTokenizer(this.#metadata.tokenizer);
    } catch (error) {
      this.#tokenizer = null;
      throw toLuthierError(error);
    }
  }

  async #startPool(): Promise<TokenizerPool> {
    const [{ TokenizerPool }, tokenizer] = await Promise.all([import('../tokenizer/pool.ts'), this.tokenizer()]);
    return new TokenizerPool(tokenizer, this.#metadata.tokenizer);
  }

  async #makeRenderer(template: string): Promise<Renderer> {
    const tokenizer = await this.tokenizer();
    const { createRenderer } = await import('../prompt/create-renderer.ts');
    try {
      return createRenderer(tokenizer, template === '' ? null : template);
    } catch (error) {
      throw toLuthierError(error);
    }
  }
}
