/** The stored data sets: a file each, and a row that says what it holds. */

import { createHash } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import { LuthierError } from '../errors/luthier-error.ts';
import { alone, type Commit } from '../store/commit.ts';
import { isTaken, moveIntoPlace, removeFolder, removeLeftovers } from '../store/durable-folders.ts';
import type { Columns, Compression, Container } from './file-layout.ts';
import type { FormatName } from './formats.ts';
import type { FilePiece } from './read-examples.ts';
import { readFile } from './read-file.ts';
import type { ExampleSource } from './tokenize-dataset.ts';

/** A stored data set. Never changes. */
export interface StoredDataset {
  /** `datasets/{id}`. */
  readonly name: string;
  readonly format: FormatName;
  readonly container: Container;
  readonly compression: Compression;
  readonly columns: Columns;
  readonly examples: number;
  readonly sizeBytes: number;
  /** Of the file; hex. */
  readonly sha256: string;
  readonly createTime: Date;
}

/** The examples of a stored data set. */
interface StoredExamples extends ExampleSource {
  readonly sizeBytes: number;
  readonly columns: Columns;
  /** @param inspect Also look for what is suspicious: `FilePiece.notices`. */
  read(signal?: AbortSignal, inspect?: boolean): AsyncIterable<FilePiece>;
}

export interface DatasetStore {
  /** Where data sets are written before they are added; on the same file system as the store. */
  readonly folder: string;
  has(name: string): boolean;
  /** @throws LuthierError DATASET_NOT_FOUND */
  get(name: string): StoredDataset;
  /** By name, ascending. @param after The last name of the page before; empty: from the start. */
  list(after: string, count: number): readonly StoredDataset[];
  /** Reads the examples in the order of the file. @throws LuthierError DATASET_NOT_FOUND */
  open(name: string): StoredExamples;
  /**
   * Takes over a folder that holds the file under the name that `dataFileName` gives it, already synced.
   * @param commit Runs the change of the database, perhaps with others in one transaction.
   * @throws LuthierError DATASET_EXISTS
   */
  add(folder: string, dataset: Omit<StoredDataset, 'createTime'>, commit?: Commit): Promise<StoredDataset>;
  /** @param commit As of `add`. @throws LuthierError DATASET_NOT_FOUND, DATASET_IN_USE */
  delete(name: string, commit?: Commit): Promise<void>;
}

/** The table, for the database's list of migrations. */
export const DATASET_TABLE = `CREATE TABLE datasets (
  name TEXT PRIMARY KEY,
  format TEXT NOT NULL,
  examples INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  create_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID`;

/** For the database's list of migrations: files other than plain JSONL. */
export const DATASET_LAYOUT_COLUMNS = `
ALTER TABLE datasets ADD COLUMN container TEXT NOT NULL DEFAULT 'jsonl';
ALTER TABLE datasets ADD COLUMN compression TEXT NOT NULL DEFAULT 'none';
ALTER TABLE datasets ADD COLUMN columns TEXT NOT NULL DEFAULT '{"mapped":{},"ignored":[]}'`;

const SUFFIXES: Readonly<Record<Compression, string>> = { none: '', gzip: '.gz', zstd: '.zst' };

/** Name of the file within a data set's folder. */
export const dataFileName = ({ container, compression }: Pick<StoredDataset, 'container' | 'compression'>): string =>
  `data.${container}${SUFFIXES[compression]}`;

const PREFIX = 'datasets/';

interface Row {
  readonly name: string;
  readonly format: string;
  readonly examples: number;
  readonly size_bytes: number;
  readonly sha256: string;
  readonly create_time: number;
  readonly container: string;
  readonly compression: string;
  readonly columns: string;
}

const fromRow = (row: Row): StoredDataset => ({
  name: row.name,
  format: row.format as FormatName,
  examples: row.examples,
  sizeBytes: row.size_bytes,
  sha256: row.sha256,
  createTime: new Date(row.create_time),
  container: row.container as Container,
  compression: row.compression as Compression,
  columns: JSON.parse(row.columns) as Columns,
});

/** The error of a name that is taken. */
export function datasetExists(name: string): LuthierError {
  return new LuthierError('DATASET_EXISTS', `${name} is there already; choose another dataset_id or leave it out`, {
    resource: { type: 'dataset', name },
  });
}

export interface DatasetStoreOptions {
  readonly database: DatabaseSync;
  /** Absolute; made where it does not exist. */
  readonly folder: string;
  /** Whether an unfinished job reads the data set. */
  readonly inUse: (name: string) => Promise<boolean>;
}

class Store implements DatasetStore {
  readonly folder: string;
  readonly #options: DatasetStoreOptions;
  readonly #get;
  readonly #list;
  readonly #insert;
  readonly #delete;

  constructor(options: DatasetStoreOptions) {
    this.#options = options;
    this.folder = options.folder;
    const { database } = options;
    this.#get = database.prepare('SELECT * FROM datasets WHERE name = ?');
    this.#list = database.prepare('SELECT * FROM datasets WHERE name > ? ORDER BY name LIMIT ?');
    this.#insert = database.prepare('INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
    this.#delete = database.prepare('DELETE FROM datasets WHERE name = ?');
  }

  has(name: string): boolean {
    return this.#get.get(name) !== undefined;
  }

  get(name: string): StoredDataset {
    const row = this.#get.get(name) as Row | undefined;
    if (row) return fromRow(row);
    throw new LuthierError(
      'DATASET_NOT_FOUND',
      `there is no data set ${JSON.stringify(name)}; expected datasets/{id} of one that was uploaded`,
      { resource: { type: 'dataset', name } },
    );
  }

  list(after: string, count: number): readonly StoredDataset[] {
    return (this.#list.all(after, count) as unknown as Row[]).map(fromRow);
  }

  open(name: string): StoredExamples {
    const dataset = this.get(name);
    const { format, container, columns, sizeBytes, sha256 } = dataset;
    const path = join(this.#folderOf(name), dataFileName(dataset));
    const read = (signal?: AbortSignal, inspect = false): AsyncIterable<FilePiece> =>
      readFile(path, { format, container, columns, inspect }, signal);
    // The same bytes with other columns are other examples.
    const contentHash = createHash('sha256')
      .update(JSON.stringify([sha256, container, columns]))
      .digest('hex');
    return { format, sizeBytes, columns, contentHash, read };
  }

  async add(folder: string, dataset: Omit<StoredDataset, 'createTime'>, commit = alone): Promise<StoredDataset> {
    const { name, format, examples, sizeBytes, sha256, container, compression } = dataset;
    if (this.has(name)) throw datasetExists(name);
    const target = this.#folderOf(name);
    await moveIntoPlace(folder, target).catch((error: unknown) => {
      throw isTaken(error) ? datasetExists(name) : error;
    });
    try {
      const columns = JSON.stringify(dataset.columns);
      commit(() => {
        this.#insert.run(name, format, examples, sizeBytes, sha256, Date.now(), container, compression, columns);
      });
    } catch (error) {
      await removeFolder(target);
      throw error;
    }
    return this.get(name);
  }

  async delete(name: string, commit = alone): Promise<void> {
    this.get(name);
    if (await this.#options.inUse(name)) {
      throw new LuthierError(
        'DATASET_IN_USE',
        `${name} is read by a training job that has not ended; cancel it or wait`,
        {
          resource: { type: 'dataset', name },
        },
      );
    }
    commit(() => {
      this.#delete.run(name);
    });
    await removeFolder(this.#folderOf(name));
  }

  #folderOf(name: string): string {
    return join(this.folder, name.slice(PREFIX.length));
  }
}

/** Opens the store and deletes what uploads and deletions left behind that were cut off. */
export async function openDatasetStore(options: DatasetStoreOptions): Promise<DatasetStore> {
  await mkdir(options.folder, { recursive: true });
  const store = new Store(options);
  await removeLeftovers(options.folder, (id) => store.has(`${PREFIX}${id}`));
  return store;
}
