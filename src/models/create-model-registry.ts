import { realpath } from 'node:fs/promises';
import { basename, isAbsolute } from 'node:path';
import { MODEL_ID } from '../config/schema.ts';
import type { Engine, ModelMetadata } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import type { Logger } from '../logging/logger.ts';
import type { EncodeOptions } from '../tokenizer/tokenizer.ts';
import { checkPath } from './allowed-path.ts';
import { ModelEntry } from './model-entry.ts';
import type { ModelRegistry } from './model-registry.ts';

export interface ModelRegistryOptions {
  readonly engine: Engine;
  /** Configured models: id to path. Their paths need not lie under a root. */
  readonly models: Readonly<Record<string, string>>;
  /** Folders under which clients may name models by path. */
  readonly roots: readonly string[];
  readonly logger: Pick<Logger, 'warn' | 'info'>;
}

const PREFIX = 'models/';

/** The id of a model that was named by path: the file's name in the characters of an id. */
function idFromPath(path: string, taken: ReadonlyMap<string, unknown>): string {
  const plain = basename(path)
    .replace(/\.gguf$/i, '')
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, 58);
  const id = MODEL_ID.test(plain) ? plain : 'model';
  if (!taken.has(id)) return id;
  for (let number = 2; ; number++) if (!taken.has(`${id}-${number}`)) return `${id}-${number}`;
}

const looksLikePath = (name: string): boolean => isAbsolute(name) || /[\\/]/.test(name) || /\.gguf$/i.test(name);

class Registry implements ModelRegistry {
  readonly #options: ModelRegistryOptions;
  readonly #entries = new Map<string, ModelEntry>();
  readonly #reading = new Map<string, Promise<ModelEntry>>();
  readonly #ready: Promise<void>;

  constructor(options: ModelRegistryOptions) {
    this.#options = options;
    this.#ready = this.#registerConfigured();
  }

  get nativeEncoders(): boolean {
    return this.#options.engine.hasEncoders;
  }

  ready(): Promise<void> {
    return this.#ready;
  }

  async get(model: string): ReturnType<ModelRegistry['get']> {
    return (await this.#find(model)).registered();
  }

  list(): ReturnType<ModelRegistry['list']> {
    const ids = [...this.#entries.keys()].sort();
    return ids.flatMap((id) => this.#entries.get(id)?.registered() ?? []);
  }

  async acquire(model: string, loadIn: LoadIn = LoadIn.LOAD_IN_STORED): ReturnType<ModelRegistry['acquire']> {
    return (await this.#find(model)).acquire(loadIn === LoadIn.LOAD_IN_UNSPECIFIED ? LoadIn.LOAD_IN_STORED : loadIn);
  }

  async unload(model: string): ReturnType<ModelRegistry['unload']> {
    const entry = await this.#find(model);
    entry.unload();
    this.#options.logger.info({ model: `${PREFIX}${entry.id}` }, 'model unloaded');
    return entry.registered();
  }

  async tokenizer(model: string): ReturnType<ModelRegistry['tokenizer']> {
    return (await this.#find(model)).tokenizer();
  }

  async renderer(model: string, template: string): ReturnType<ModelRegistry['renderer']> {
    return (await this.#find(model)).renderer(template);
  }

  async encode(model: string, text: string, options: EncodeOptions): ReturnType<ModelRegistry['encode']> {
    return (await this.#find(model)).encode(text, options);
  }

  async close(): Promise<void> {
    await this.#ready;
    await Promise.all([...this.#entries.values()].map((entry) => entry.close()));
  }

  async #registerConfigured(): Promise<void> {
    const { models, logger } = this.#options;
    await Promise.all(
      Object.entries(models).map(async ([id, path]) => {
        try {
          await this.#registerAs(id, path);
        } catch (error) {
          logger.warn(
            { model: `${PREFIX}${id}`, path, problem: toLuthierError(error).message },
            'model cannot be used',
          );
        }
      }),
    );
  }

  async #find(model: string): Promise<ModelEntry> {
    const { models } = this.#options;
    const id = model.startsWith(PREFIX) ? model.slice(PREFIX.length) : model;
    const known = this.#entries.get(id);
    if (known) return known;
    // Not read yet, or not readable before: its own error says more than NOT_FOUND.
    if (Object.hasOwn(models, id)) return this.#registerAs(id, models[id] ?? '');
    if (looksLikePath(id)) return this.#findByPath(model);
    await this.#ready;
    const names = this.list().map(({ name }) => name);
    throw new LuthierError(
      'MODEL_NOT_FOUND',
      `there is no model ${JSON.stringify(model)}; ${names.length === 0 ? 'none is registered' : `expected ${names.join(', ')}`}, or a path under a model root`,
      { resource: { type: 'model', name: model } },
    );
  }

  async #findByPath(path: string): Promise<ModelEntry> {
    await this.#ready;
    const byPath = (real: string): ModelEntry | undefined =>
      [...this.#entries.values()].find((entry) => entry.path === real);
    // The path of a registered model is public already (Model.path).
    const registered = byPath(path);
    if (registered) return registered;
    const real = await checkPath(path, this.#options.roots);
    return (
      byPath(real) ??
      this.#read(
        `path ${real}`,
        async () => real,
        () => idFromPath(real, this.#entries),
      )
    );
  }

  async #registerAs(id: string, path: string): Promise<ModelEntry> {
    // A missing file is the engine's to report.
    const locate = (): Promise<string> => realpath(path).catch(() => path);
    return this.#entries.get(id) ?? this.#read(`id ${id}`, locate, () => id);
  }

  /** Finds and reads the file once, however many calls ask for `key` at the same time; they go on in their order. */
  #read(key: string, locate: () => Promise<string>, chooseId: () => string): Promise<ModelEntry> {
    const { engine, logger } = this.#options;
    const underway = this.#reading.get(key);
    if (underway) return underway;
    const register = (path: string, metadata: ModelMetadata): ModelEntry => {
      const entry = new ModelEntry(chooseId(), engine, metadata, path);
      this.#entries.set(entry.id, entry);
      logger.info({ model: `${PREFIX}${entry.id}`, path, format: metadata.format }, 'model registered');
      return entry;
    };
    const read = async (): Promise<ModelEntry> => {
      try {
        const path = await locate();
        return register(path, await engine.readMetadata(path));
      } catch (error) {
        throw toLuthierError(error);
      }
    };
    const reading = read().finally(() => this.#reading.delete(key));
    this.#reading.set(key, reading);
    return reading;
  }
}

/** The registry over an engine. Configured models are read in the background: see `ready`. */
export function createModelRegistry(options: ModelRegistryOptions): ModelRegistry {
  return new Registry(options);
}
