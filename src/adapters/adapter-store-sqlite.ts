/** The adapter store: folders in the data folder, rows in SQLite, what is used in memory. */
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import type { AdapterInfo, AdapterMetadata, Engine } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ModelLease, ModelRegistry } from '../models/model-registry.ts';
import type { TemplateIdentity } from '../prompt/renderer.ts';
import { alone, type Commit } from '../store/commit.ts';
import { isTaken, makeWritingFolder, moveIntoPlace, removeFolder, removeLeftovers } from '../store/durable-folders.ts';
import { WritingFolders } from '../store/writing-folders.ts';
import { aboutAdapter, adapterExists, adapterInUse, adapterNotFound, checkBaseHash } from './adapter-errors.ts';
import { copyFromPath, copyToPath, syncAdapterFiles } from './adapter-files.ts';
import { AdapterRows } from './adapter-rows.ts';
import type { AdapterLease, AdapterStore, StoredAdapter } from './adapter-store.ts';
import { LoadedAdapters } from './loaded-adapters.ts';

export interface AdapterStoreOptions {
  readonly database: DatabaseSync;
  /** Absolute; made where it does not exist. */
  readonly folder: string;
  readonly engine: Pick<Engine, 'readAdapter'>;
  readonly models: ModelRegistry;
  /** Folders that clients may import from. */
  readonly modelRoots: readonly string[];
  /** Folders that clients may export to. */
  readonly exportRoots: readonly string[];
  /** Whether an unfinished job starts from the adapter. */
  readonly inUse: (name: string) => Promise<boolean>;
}

/** An adapter that a training run wrote. */
interface AdoptionSpec {
  /** A folder on the data folder's file system with the adapter's files; it is moved away. */
  readonly folder: string;
  /** Empty: chosen here. */
  readonly id: string;
  /** `models/{id}`. */
  readonly baseModel: string;
  /** Null: exact ids, no template. */
  readonly template: TemplateIdentity | null;
  /** `trainingJobs/{id}`. */
  readonly trainingJob: string;
  readonly origin: AdapterMetadata;
}

/** A PEFT adapter to take into the store. */
interface TakeSpec {
  /** What the adapter is called in messages. */
  readonly source: string;
  /** Empty: chosen here. */
  readonly id: string;
  /** `models/{id}` or a path; empty: the registered model whose content hash the adapter carries. */
  readonly baseModel: string;
  /** Accept one that carries the content hash of another base. */
  readonly allowOtherBase: boolean;
  /** Take the place of an adapter of this name that nothing uses. */
  readonly overwrite: boolean;
}

/** What was taken, and what could not be checked. */
export interface Taken {
  readonly adapter: StoredAdapter;
  readonly warnings: readonly string[];
}

type CommitTaken = (change: () => void, taken: Taken) => void;

export interface ManagedAdapterStore extends AdapterStore {
  /** @param name `adapters/{id}`, or `trainingJobs/{id}` of the job that made it. */
  has(name: string): boolean;
  /** By name, ascending. @param after The last name of the page before; empty: from the start. */
  list(after: string, count: number): readonly StoredAdapter[];
  /** Names of those with a base. @param model `models/{id}` */
  namesOf(model: string): readonly string[];
  /** Takes over what a run wrote. @throws LuthierError ADAPTER_EXISTS, ADAPTER_CORRUPT */
  adopt(spec: AdoptionSpec): Promise<StoredAdapter>;
  /**
   * Takes an adapter into the store, checked against its base: shapes and names by loading it beside the base, the hash where it carries one.
   * @param fill Writes its files into an empty folder; nothing stays of it where this or a check fails.
   * @param commit Runs the change of the database, perhaps with others in one transaction; is told what is taken.
   * @throws LuthierError ADAPTER_CORRUPT, ADAPTER_UNSUPPORTED, ADAPTER_MISMATCH, ADAPTER_EXISTS, ADAPTER_IN_USE; what `fill` throws
   */
  take(spec: TakeSpec, fill: (folder: string) => Promise<void>, commit?: CommitTaken): Promise<Taken>;
  /** As `take`, from a folder that a client named. @throws LuthierError PATH_NOT_ALLOWED, ADAPTER_NOT_FOUND, too */
  import(path: string, spec: Omit<TakeSpec, 'source'>, commit?: CommitTaken): Promise<Taken>;
  /** @throws LuthierError ADAPTER_NOT_FOUND, PATH_NOT_ALLOWED, EXPORT_TARGET_NOT_EMPTY */
  export(adapter: string, path: string): Promise<{ readonly path: string; readonly sizeBytes: number }>;
  /** @param commit As of `take`. @throws LuthierError ADAPTER_NOT_FOUND, ADAPTER_IN_USE */
  delete(adapter: string, commit?: Commit): Promise<void>;
  /** Frees what is in memory. */
  close(): void;
}

const PREFIX = 'adapters/';
const NO_ORIGIN: AdapterMetadata = {
  baseModelName: '',
  baseModelHash: '',
  templateId: '',
  templateHash: '',
  template: '',
};

interface AddOptions {
  readonly overwrite: boolean;
  readonly commit: (change: () => void, adapter: StoredAdapter) => void;
}

class SqliteAdapterStore implements ManagedAdapterStore {
  readonly #options: AdapterStoreOptions;
  readonly #rows: AdapterRows;
  readonly #writing: WritingFolders;
  readonly #loaded = new LoadedAdapters();

  constructor(options: AdapterStoreOptions) {
    this.#options = options;
    this.#rows = new AdapterRows(options.database, options.folder);
    this.#writing = new WritingFolders(options.database);
  }

  has(name: string): boolean {
    return this.#rows.find(name) !== null;
  }

  get(adapter: string): StoredAdapter {
    const found = this.#rows.find(adapter);
    if (found === null) throw adapterNotFound(adapter);
    return found;
  }

  list(after: string, count: number): readonly StoredAdapter[] {
    return this.#rows.list(after, count);
  }

  namesOf(model: string): readonly string[] {
    return this.#rows.namesOf(model);
  }

  async acquire(adapter: string, base: ModelLease): Promise<AdapterLease> {
    return this.#loaded.acquire(this.get(adapter), base);
  }

  async adopt(spec: AdoptionSpec): Promise<StoredAdapter> {
    const info = await this.#read(spec.folder, `the adapter of ${spec.trainingJob}`);
    return this.#add(spec.folder, spec.id, {
      baseModel: spec.baseModel,
      info,
      origin: spec.origin,
      templateVersion: spec.template?.version ?? '',
      trainingJob: spec.trainingJob,
    });
  }

  async take(spec: TakeSpec, fill: (folder: string) => Promise<void>, commit: CommitTaken = alone): Promise<Taken> {
    const { source, id, allowOtherBase, overwrite } = spec;
    // Before anything is copied or sent in vain.
    if (id !== '' && !overwrite && this.has(PREFIX + id)) throw adapterExists(PREFIX + id);
    const folder = await makeWritingFolder(this.#options.folder);
    try {
      await fill(folder);
      const info = await this.#read(folder, source);
      const origin = info.metadata ?? NO_ORIGIN;
      const base = await this.#options.models.acquire(await this.#baseOf(spec.baseModel, origin));
      try {
        if (!allowOtherBase) checkBaseHash(source, origin.baseModelHash, base);
        (await base.model.loadAdapter(folder, allowOtherBase)).close();
      } catch (error) {
        throw aboutAdapter(error, folder, source);
      } finally {
        base.release();
      }
      const { name: baseModel, metadata } = base.registered;
      // Where another base was accepted, that is the one it is used with from now on.
      const baseModelHash = origin.baseModelHash === '' ? '' : metadata.contentHash;
      const facts = {
        baseModel,
        info,
        origin: { ...origin, baseModelHash },
        templateVersion: carriedVersion(origin),
        trainingJob: '',
      };
      const warnings = takeWarnings(origin, baseModel, metadata.contentHash);
      const adapter = await this.#add(folder, id, facts, {
        overwrite,
        commit: (change, added) => commit(change, { adapter: added, warnings }),
      });
      return { adapter, warnings };
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async import(path: string, spec: Omit<TakeSpec, 'source'>, commit?: CommitTaken): Promise<Taken> {
    const fill = (folder: string): Promise<void> => copyFromPath(path, this.#options.modelRoots, folder);
    return this.take({ ...spec, source: path }, fill, commit);
  }

  async export(adapter: string, path: string): ReturnType<ManagedAdapterStore['export']> {
    return copyToPath(this.get(adapter).folder, path, this.#options.exportRoots, this.#writing);
  }

  async delete(adapter: string, commit = alone): Promise<void> {
    const { name, folder } = this.get(adapter);
    await this.#whileUnused(name, () => commit(() => this.#rows.delete(name)));
    await removeFolder(folder);
  }

  close(): void {
    this.#loaded.close();
  }

  /** Deletes folders that no row names. */
  removeLeftovers(): Promise<void> {
    return removeLeftovers(this.#options.folder, (name) => this.#rows.ownsFolder(name));
  }

  async #read(folder: string, called: string): Promise<AdapterInfo> {
    try {
      return await this.#options.engine.readAdapter(folder);
    } catch (error) {
      throw aboutAdapter(error, folder, called);
    }
  }

  async #baseOf(asked: string, origin: AdapterMetadata): Promise<string> {
    if (asked !== '') return asked;
    const { models } = this.#options;
    await models.ready();
    const known = models.list().find(({ metadata }) => metadata.contentHash === origin.baseModelHash);
    if (known) return known.name;
    const description = 'expected a model; the adapter names none that is registered here by its content hash';
    throw new LuthierError('INVALID_REQUEST', `base_model: ${description}`, {
      violations: [{ field: 'base_model', description, reason: '' }],
    });
  }

  /**
   * Changes an adapter's row while nothing uses it; nobody can come in between.
   * @throws LuthierError ADAPTER_IN_USE
   */
  async #whileUnused<Result>(name: string, change: () => Result): Promise<Result> {
    if (await this.#options.inUse(name)) throw adapterInUse(name, 'a training job');
    if (this.#loaded.users(name) > 0) throw adapterInUse(name, 'a call');
    const result = change();
    this.#loaded.forget(name);
    return result;
  }

  /** Gives a name to another adapter. @returns The one that had it. */
  #replace(name: string, put: () => void): Promise<StoredAdapter | null> {
    return this.#whileUnused(name, () => {
      const replaced = this.#rows.find(name);
      put();
      return replaced;
    });
  }

  /** Moves a folder in and makes its row; the row decides which adapter there is, at any moment and after a crash. */
  async #add(
    folder: string,
    asked: string,
    facts: Pick<StoredAdapter, 'baseModel' | 'info' | 'origin' | 'templateVersion' | 'trainingJob'>,
    { overwrite, commit }: AddOptions = { overwrite: false, commit: alone },
  ): Promise<StoredAdapter> {
    const id = asked === '' ? `a-${randomUUID()}` : asked;
    const name = `${PREFIX}${id}`;
    const isThere = this.has(name);
    if (isThere && !overwrite) throw adapterExists(name);
    await this.#options.models.keep(facts.baseModel);
    const sizeBytes = await syncAdapterFiles(folder);
    // Beside the old one, under a name that no id has.
    const target = join(this.#options.folder, isThere ? `${id}~${randomUUID()}` : id);
    await moveIntoPlace(folder, target).catch((error: unknown) => {
      throw isTaken(error) ? adapterExists(name) : error;
    });
    const adapter = { ...facts, name, sizeBytes, createTime: new Date(), folder: target };
    let replaced: StoredAdapter | null = null;
    try {
      const put = (): void => commit(() => this.#rows.put(adapter), adapter);
      if (isThere) replaced = await this.#replace(adapter.name, put);
      else put();
    } catch (error) {
      await removeFolder(target);
      throw error;
    }
    if (replaced !== null) await removeFolder(replaced.folder);
    return adapter;
  }
}

/** The version that an adapter's template file names; empty where it carries none. */
function carriedVersion({ template }: AdapterMetadata): string {
  try {
    const { version } = JSON.parse(template) as { version?: unknown };
    return typeof version === 'string' ? version : '';
  } catch {
    return '';
  }
}

function takeWarnings(origin: AdapterMetadata, baseModel: string, contentHash: string): string[] {
  const hash = `the adapter carries no content hash of its base: that it was trained on ${baseModel} could be checked by names and shapes only`;
  const other = `the adapter was trained on a base with content hash ${origin.baseModelHash}; ${baseModel} has ${contentHash} and was accepted as asked: names and shapes fit`;
  const template =
    "the adapter carries no template: prompts are rendered with the model's own unless a request names one";
  return [
    ...(origin.baseModelHash === '' ? [hash] : origin.baseModelHash === contentHash ? [] : [other]),
    ...(origin.templateId === '' ? [template] : []),
  ];
}

/** Opens the store and deletes what imports and deletions left behind that were cut off. */
export async function openAdapterStore(options: AdapterStoreOptions): Promise<ManagedAdapterStore> {
  await mkdir(options.folder, { recursive: true });
  const store = new SqliteAdapterStore(options);
  await store.removeLeftovers();
  return store;
}
