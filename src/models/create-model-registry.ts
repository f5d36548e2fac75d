import { realpath } from 'node:fs/promises';
import { basename, isAbsolute } from 'node:path';
import { MODEL_ID } from '../config/schema.ts';
import type { Engine } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import type { Logger } from '../logging/logger.ts';
import { alone } from '../store/commit.ts';
import { openDatabase } from '../store/database.ts';
import type { EncodeOptions } from '../tokenizer/tokenizer.ts';
import { checkPath } from './allowed-path.ts';
import { checkImport } from './check-import.ts';
import { refuseFileOfFolder } from './file-of-folder.ts';
import { ImportedModels } from './imported-models.ts';
import { ModelEntry } from './model-entry.ts';
import { compareFiles, settingsDigest, stampFiles } from './model-files.ts';
import type { KnownModel, ModelRegistry } from './model-registry.ts';
import { type ModelReading, readModel } from './read-model.ts';

export interface ModelRegistryOptions {
  readonly engine: Engine;
  /** Configured models: id to path. Their paths need not lie under a root. */
  readonly models: Readonly<Record<string, string>>;
  /** Folders under which clients may name models by path. */
  readonly roots: readonly string[];
  /** Left out: imports are forgotten with the registry. */
  readonly imports?: ImportedModels;
  /** Whether an unfinished job names a model so; left out: none does. */
  readonly inUse?: (model: string) => Promise<boolean>;
  readonly logger: Pick<Logger, 'warn' | 'info'>;
}

const PREFIX = 'models/';

/** The id of a model that was named by path: the file's name in the characters of an id. */
function idFromPath(path: string, isTaken: (id: string) => boolean): string {
  const plain = basename(path)
    .replace(/\.gguf$/i, '')
    .replace(/[^A-Za-z0-9._-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, 58);
  const id = MODEL_ID.test(plain) ? plain : 'model';
  if (!isTaken(id)) return id;
  for (let number = 2; ; number++) if (!isTaken(`${id}-${number}`)) return `${id}-${number}`;
}

const looksLikePath = (name: string): boolean => isAbsolute(name) || /[\\/]/.test(name) || /\.gguf$/i.test(name);
const idOf = (model: string): string => (model.startsWith(PREFIX) ? model.slice(PREFIX.length) : model);

const refusal = (reason: 'MODEL_EXISTS' | 'MODEL_IN_USE' | 'INVALID_STATE', id: string, message: string) =>
  new LuthierError(reason, message, { resource: { type: 'model', name: `${PREFIX}${id}` } });

class Registry implements ModelRegistry {
  readonly #options: ModelRegistryOptions;
  readonly #imports: ImportedModels;
  readonly #entries = new Map<string, ModelEntry>();
  readonly #reading = new Map<string, Promise<ModelEntry>>();
  readonly #ready: Promise<void>;

  constructor(options: ModelRegistryOptions) {
    this.#options = options;
    this.#imports = options.imports ?? new ImportedModels(openDatabase(':memory:'));
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
    const known = [...this.#entries.values()].map((entry): KnownModel => entry.registered());
    const unread = this.#imports.all().filter(({ id }) => !this.#entries.has(id));
    const rest = unread.map(
      ({ id, facts: metadata, hasChatTemplate, importTime }): KnownModel => ({
        name: `${PREFIX}${id}`,
        metadata,
        hasChatTemplate,
        importTime,
        loaded: [],
        users: 0,
      }),
    );
    return [...known, ...rest].sort((a, b) => (a.name < b.name ? -1 : 1));
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

  async import(path: string, asked: string): ReturnType<ModelRegistry['import']> {
    await this.#ready;
    const real = await checkPath(path, this.#options.roots);
    await refuseFileOfFolder(path, real);
    const refused = this.#refusalOfImport(real, asked);
    if (refused) throw refused;
    const reading = await this.#readFiles(real);
    return (await this.#remember(real, asked, reading)).registered();
  }

  async keep(model: string): Promise<void> {
    const { id, path, reading } = await this.#find(model);
    if (Object.hasOwn(this.#options.models, id) || this.#imports.find(id) !== null) return;
    await this.#remember(path, id, reading);
  }

  async delete(model: string, commit: (change: () => void, name: string) => void = alone): Promise<string> {
    await this.#ready;
    const imported = this.#imports.find(idOf(model)) ?? this.#imports.findByPath(model);
    const id = imported?.id ?? this.#registeredAt(model)?.id ?? idOf(model);
    if (Object.hasOwn(this.#options.models, id)) {
      const message = `${PREFIX}${id} is one of the server's own settings (--model ${id}=…), not an import; its operator can take it out there`;
      throw refusal('INVALID_STATE', id, message);
    }
    const path = imported?.path ?? this.#entries.get(id)?.path;
    if (path === undefined) throw this.#notFound(model);
    await this.#checkNoJobNames(id, path);
    // From here on nobody can come in between.
    const entry = this.#entries.get(id);
    entry?.unload();
    commit(() => this.#imports.delete(id), `${PREFIX}${id}`);
    this.#entries.delete(id);
    await entry?.close();
    this.#options.logger.info({ model: `${PREFIX}${id}`, path }, 'model deleted; its files stay');
    return `${PREFIX}${id}`;
  }

  async checkFiles(model: string): Promise<void> {
    const entry = await this.#find(model);
    await this.#checkFiles(entry.id, entry);
  }

  async changes(name: string): Promise<string> {
    try {
      await this.#checkFiles(idOf(name), null);
      return '';
    } catch (error) {
      return toLuthierError(error).message;
    }
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
    const id = idOf(model);
    const known = this.#entries.get(id);
    if (known) return known;
    // Not read yet, or not readable before: its own error says more than NOT_FOUND.
    if (Object.hasOwn(models, id)) return this.#registerAs(id, models[id] ?? '');
    const imported = this.#imports.find(id);
    if (imported) return this.#registerAs(id, imported.path);
    if (looksLikePath(id)) return this.#findByPath(model);
    await this.#ready;
    throw this.#notFound(model);
  }

  #notFound(model: string): LuthierError {
    const names = this.list().map(({ name }) => name);
    return new LuthierError(
      'MODEL_NOT_FOUND',
      `there is no model ${JSON.stringify(model)}; ${names.length === 0 ? 'none is registered' : `expected ${names.join(', ')}`}, or a path under a model root`,
      { resource: { type: 'model', name: model } },
    );
  }

  async #findByPath(path: string): Promise<ModelEntry> {
    await this.#ready;
    // The path of a registered model is public already (Model.path).
    const known = this.#registeredAt(path);
    if (known) return known;
    const real = this.#imports.findByPath(path)?.path ?? (await checkPath(path, this.#options.roots));
    const imported = this.#imports.findByPath(real);
    if (imported) return this.#registerAs(imported.id, real);
    await refuseFileOfFolder(path, real);
    return (
      this.#registeredAt(real) ??
      this.#read(
        `path ${real}`,
        async () => real,
        () => idFromPath(real, (id) => this.#isTaken(id)),
      )
    );
  }

  #registeredAt(path: string): ModelEntry | undefined {
    return [...this.#entries.values()].find((entry) => entry.path === path);
  }

  #isTaken(id: string): boolean {
    return this.#entries.has(id) || Object.hasOwn(this.#options.models, id) || this.#imports.find(id) !== null;
  }

  async #registerAs(id: string, path: string): Promise<ModelEntry> {
    // A missing file is the engine's to report.
    const locate = async (): Promise<string> => {
      const real = await realpath(path).catch(() => path);
      await refuseFileOfFolder(path, real);
      return real;
    };
    return this.#entries.get(id) ?? this.#read(`id ${id}`, locate, () => id);
  }

  /** Finds and reads the file once, however many calls ask for `key` at the same time; they go on in their order. */
  #read(key: string, locate: () => Promise<string>, chooseId: () => string): Promise<ModelEntry> {
    const underway = this.#reading.get(key);
    if (underway) return underway;
    const read = async (): Promise<ModelEntry> => {
      const path = await locate();
      return this.#register(path, await this.#readFiles(path), chooseId());
    };
    const reading = read().finally(() => this.#reading.delete(key));
    this.#reading.set(key, reading);
    return reading;
  }

  async #readFiles(path: string): Promise<ModelReading> {
    try {
      return await readModel(this.#options.engine, path);
    } catch (error) {
      throw toLuthierError(error);
    }
  }

  #register(path: string, reading: ModelReading, id: string): ModelEntry {
    const { engine, logger } = this.#options;
    const entry: ModelEntry = new ModelEntry(id, path, reading, {
      engine,
      beforeLoad: () => this.#checkFiles(id, entry),
      importTime: () => this.#imports.find(id)?.importTime ?? null,
    });
    this.#entries.set(id, entry);
    logger.info({ model: `${PREFIX}${id}`, path, format: reading.metadata.format }, 'model registered');
    return entry;
  }

  /** Why a path cannot be imported under an id, or by the one that it has where none is asked for; null: it can. */
  #refusalOfImport(path: string, asked: string): LuthierError | null {
    const { models } = this.#options;
    const entry = this.#registeredAt(path);
    const has = this.#imports.findByPath(path)?.id ?? entry?.id ?? '';
    if (Object.hasOwn(models, has)) {
      return refusal('MODEL_EXISTS', has, `${path} is models/${has} by the server's own settings; use that name`);
    }
    if (asked === '' || asked === has) return null;
    if (this.#imports.find(has) !== null) {
      const message = `${path} is imported already, as models/${has}; use that name, or delete it first`;
      return refusal('MODEL_EXISTS', has, message);
    }
    if (this.#isTaken(asked)) {
      const other = this.#entries.get(asked)?.path ?? this.#imports.find(asked)?.path ?? models[asked];
      return refusal('MODEL_EXISTS', asked, `models/${asked} is there already, from ${other}; choose another model_id`);
    }
    const users = entry?.registered().users ?? 0;
    if (users === 0) return null;
    const message = `${path} is used by ${users} jobs and streams as models/${has}; repeat when they have ended, or without another model_id`;
    return refusal('MODEL_IN_USE', has, message);
  }

  /** Makes the row and the entry of an import, in place of those that the path has. */
  async #remember(path: string, asked: string, { metadata, ...reading }: ModelReading): Promise<ModelEntry> {
    const digest = await settingsDigest(path, reading.files);
    // Again: another call may have come before while files were read.
    const refused = this.#refusalOfImport(path, asked);
    if (refused) throw refused;
    const old = this.#registeredAt(path);
    const given = this.#imports.findByPath(path)?.id ?? old?.id;
    const id = asked === '' ? (given ?? idFromPath(path, (taken) => this.#isTaken(taken))) : asked;
    const { tokenizer: _, ...facts } = metadata;
    const { hasChatTemplate, files } = reading;
    this.#imports.put({ id, path, facts, hasChatTemplate, files, settingsDigest: digest, importTime: new Date() });
    if (old?.id === id) {
      old.refresh({ metadata, ...reading });
      return old;
    }
    // Named by path before, and used by nobody: the name that was given to it meanwhile goes.
    if (old) this.#entries.delete(old.id);
    await old?.close();
    return this.#register(path, { metadata, ...reading }, id);
  }

  async #checkNoJobNames(id: string, path: string): Promise<void> {
    for (const name of [`${PREFIX}${id}`, id, path]) {
      if (!(await this.#options.inUse?.(name))) continue;
      throw refusal('MODEL_IN_USE', id, `${PREFIX}${id} is used by a training job; repeat when it has ended`);
    }
  }

  /** Refuses an import whose files changed; of other models, the files are taken as they are now. */
  async #checkFiles(id: string, entry: ModelEntry | null): Promise<void> {
    const { engine, logger } = this.#options;
    const imported = this.#imports.find(id);
    if (imported !== null) {
      const files = await checkImport(engine, imported);
      const isSame = this.#imports.find(id)?.importTime.getTime() === imported.importTime.getTime();
      // So that contents are not compared again and again.
      if (files !== null && isSame) this.#imports.put({ ...imported, files });
      return;
    }
    if (entry === null) return;
    const { descriptions } = compareFiles(entry.reading.files, await stampFiles(entry.path));
    if (descriptions.length === 0) return;
    logger.warn({ model: `${PREFIX}${id}`, changes: descriptions }, 'files of a model changed; they are read again');
    entry.refresh(await this.#readFiles(entry.path));
  }
}

/** The registry over an engine. Configured models are read in the background: see `ready`. */
export function createModelRegistry(options: ModelRegistryOptions): ModelRegistry {
  return new Registry(options);
}
