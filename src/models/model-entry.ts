import type { BaseModel, Engine, ModelMetadata } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { LoadIn } from '../gen/luthier/v1/common.ts';
import type { Renderer } from '../prompt/renderer.ts';
import type { TokenizerPool } from '../tokenizer/pool.ts';
import type { EncodeOptions, Tokenizer } from '../tokenizer/tokenizer.ts';
import type { ModelLease, RegisteredModel } from './model-registry.ts';
import type { ModelReading } from './read-model.ts';
import { weightStorage } from './weight-storage.ts';

/** Renderers kept: clients may bring templates of their own without end. The oldest goes first. */
const MAX_RENDERERS = 64;

/** The weights in one form: under way, or there. */
interface Form {
  readonly loadIn: LoadIn;
  readonly loading: Promise<BaseModel>;
  /** Null until it is loaded. */
  model: BaseModel | null;
  users: number;
}

/** What a model asks of others. */
export interface ModelEntryOptions {
  readonly engine: Engine;
  /** Awaited before weights are loaded; what it throws fails the load. */
  readonly beforeLoad: () => Promise<void>;
  /** When the model was imported; null: it was not. */
  readonly importTime: () => Date | null;
}

/** One base model: what its files say, its weights while somebody needs them, its tokenizer and its renderers. */
export class ModelEntry {
  readonly id: string;
  readonly path: string;
  readonly #options: ModelEntryOptions;
  #reading: ModelReading;
  readonly #forms = new Map<LoadIn, Form>();
  /** Forms of files that were replaced, until their last user lets go. */
  readonly #outdated = new Set<Form>();
  #tokenizer: Promise<Tokenizer> | null = null;
  #pool: Promise<TokenizerPool> | null = null;
  readonly #renderers = new Map<string, Promise<Renderer>>();

  constructor(id: string, path: string, reading: ModelReading, options: ModelEntryOptions) {
    this.id = id;
    this.path = path;
    this.#reading = reading;
    this.#options = options;
  }

  /** What the files said when they were read last. */
  get reading(): ModelReading {
    return this.#reading;
  }

  get #metadata(): ModelMetadata {
    return this.#reading.metadata;
  }

  registered(): RegisteredModel {
    const forms = [...this.#forms.values(), ...this.#outdated];
    return {
      name: `models/${this.id}`,
      metadata: this.#metadata,
      hasChatTemplate: this.#reading.hasChatTemplate,
      importTime: this.#options.importTime(),
      loaded: forms.flatMap(({ loadIn, model, users }) =>
        model === null ? [] : [{ loadIn, storageType: model.storageType, loadedBytes: model.loadedBytes, users }],
      ),
      users: this.#users(),
    };
  }

  async acquire(loadIn: LoadIn): Promise<ModelLease> {
    const form = this.#form(loadIn);
    // Counted before the first await: a load under way is use, too.
    form.users += 1;
    try {
      return this.#lease(form, await form.loading);
    } catch (error) {
      this.#release(form);
      throw toLuthierError(error);
    }
  }

  unload(): void {
    const users = this.#users();
    if (users > 0) {
      throw new LuthierError(
        'MODEL_IN_USE',
        `models/${this.id} is used by ${users} jobs and streams; repeat when they have ended`,
        { resource: { type: 'model', name: `models/${this.id}` } },
      );
    }
    this.#free();
  }

  /** Takes what the files say now: what was made from the old ones is void. */
  refresh(reading: ModelReading): void {
    const isOther = reading.metadata.contentHash !== this.#metadata.contentHash;
    this.#reading = reading;
    this.#forgetSettings();
    if (isOther) this.#retireForms(null);
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

  #users(): number {
    return [...this.#forms.values(), ...this.#outdated].reduce((sum, { users }) => sum + users, 0);
  }

  #free(): void {
    for (const { model } of [...this.#forms.values(), ...this.#outdated]) model?.close();
    this.#forms.clear();
    this.#outdated.clear();
  }

  tokenizer(): Promise<Tokenizer> {
    this.#tokenizer ??= this.#readTokenizer();
    return this.#tokenizer;
  }

  renderer(template: string): Promise<Renderer> {
    const known = this.#renderers.get(template);
    if (known) return known;
    const made = this.#makeRenderer(template);
    if (this.#renderers.size >= MAX_RENDERERS) this.#renderers.delete(this.#renderers.keys().next().value ?? '');
    this.#renderers.set(template, made);
    made.catch(() => this.#renderers.delete(template));
    return made;
  }

  #form(loadIn: LoadIn): Form {
    const known = this.#forms.get(loadIn);
    if (known) return known;
    const form: Form = { loadIn, loading: Promise.resolve().then(() => this.#load(form)), model: null, users: 0 };
    this.#forms.set(loadIn, form);
    return form;
  }

  async #load(form: Form): Promise<BaseModel> {
    try {
      const { engine, beforeLoad } = this.#options;
      await beforeLoad();
      const model = await engine.loadModel(this.path, weightStorage(form.loadIn, this.#metadata));
      // The files were replaced between the last look and this one.
      if (model.metadata.contentHash !== this.#metadata.contentHash) {
        this.#forgetSettings();
        this.#retireForms(form);
      }
      this.#reading = { ...this.#reading, metadata: model.metadata };
      form.model = model;
      return model;
    } catch (error) {
      if (this.#forms.get(form.loadIn) === form) this.#forms.delete(form.loadIn);
      throw error;
    }
  }

  /** Tokenizer and templates are made anew when they are asked for. */
  #forgetSettings(): void {
    void this.#pool?.then(
      (pool) => pool.close(),
      () => undefined,
    );
    this.#pool = null;
    this.#tokenizer = null;
    this.#renderers.clear();
  }

  /** Weights of the old files are nobody's form any more, but for one that was just loaded. */
  #retireForms(loaded: Form | null): void {
    for (const form of [...this.#forms.values()].filter((other) => other !== loaded && other.model !== null)) {
      this.#forms.delete(form.loadIn);
      if (form.users === 0) form.model?.close();
      else this.#outdated.add(form);
    }
  }

  #lease(form: Form, model: BaseModel): ModelLease {
    let held = true;
    const registered = this.registered();
    const release = (): void => {
      if (held) this.#release(form);
      held = false;
    };
    return { registered, model, release };
  }

  #release(form: Form): void {
    form.users -= 1;
    if (form.users === 0 && this.#outdated.delete(form)) form.model?.close();
  }

  async #readTokenizer(): Promise<Tokenizer> {
    try {
      const { loadTokenizer } = await import('../tokenizer/load.ts');
      const tokenizer = await loadTokenizer(this.#metadata.tokenizer);
      this.#checkVocabulary(tokenizer.vocabSize);
      return tokenizer;
    } catch (error) {
      this.#tokenizer = null;
      throw toLuthierError(error);
    }
  }

  /** An id without a row in the embedding would fail in the middle of a job. */
  #checkVocabulary(tokens: number): void {
    const { vocabSize } = this.#metadata;
    if (tokens <= vocabSize) return;
    throw new LuthierError(
      'TOKENIZER_UNSUPPORTED',
      `models/${this.id}: the tokenizer has ${tokens} ids, the model's embedding ${vocabSize} rows; the tokenizer's files belong to another model, or tokens were added without resizing the embedding`,
      { resource: { type: 'model', name: `models/${this.id}` } },
    );
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
