/** The table of adapters. */
import { basename, join } from 'node:path';
import type { DatabaseSync } from 'node:sqlite';
import type { AdapterInfo, AdapterMetadata } from '../engine/engine.ts';
import type { StoredAdapter } from './adapter-store.ts';

/** The table, for the database's list of migrations. `info` and `origin` are JSON. */
export const ADAPTER_TABLE = `CREATE TABLE adapters (
  name TEXT PRIMARY KEY,
  base_model TEXT NOT NULL,
  info TEXT NOT NULL,
  origin TEXT NOT NULL,
  template_version TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  training_job TEXT NOT NULL,
  create_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX adapters_by_training_job ON adapters (training_job)`;

/** The folder's own name: one adapter takes another's place by one change of its row. */
export const ADAPTER_FOLDER_COLUMN = `ALTER TABLE adapters ADD COLUMN folder TEXT NOT NULL DEFAULT '';
UPDATE adapters SET folder = substr(name, length('adapters/') + 1)`;

interface Row {
  readonly name: string;
  readonly base_model: string;
  readonly info: string;
  readonly origin: string;
  readonly template_version: string;
  readonly size_bytes: number;
  readonly training_job: string;
  readonly create_time: number;
  /** Of the adapters' folder. */
  readonly folder: string;
}

const PREFIX = 'adapters/';

/** Reads and writes rows. `folder` holds the adapters' own folders. */
export class AdapterRows {
  readonly #folder: string;
  readonly #byName;
  readonly #byJob;
  readonly #list;
  readonly #byBase;
  readonly #byFolder;
  readonly #put;
  readonly #delete;

  constructor(database: DatabaseSync, folder: string) {
    this.#folder = folder;
    this.#byName = database.prepare('SELECT * FROM adapters WHERE name = ?');
    this.#byJob = database.prepare('SELECT * FROM adapters WHERE training_job = ?');
    this.#list = database.prepare('SELECT * FROM adapters WHERE name > ? ORDER BY name LIMIT ?');
    this.#byBase = database.prepare('SELECT name FROM adapters WHERE base_model = ? ORDER BY name');
    this.#byFolder = database.prepare('SELECT 1 FROM adapters WHERE folder = ?');
    this.#put = database.prepare('REPLACE INTO adapters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)');
    this.#delete = database.prepare('DELETE FROM adapters WHERE name = ?');
  }

  /** @param adapter `adapters/{id}`, a bare id or `trainingJobs/{id}`. */
  find(adapter: string): StoredAdapter | null {
    const row = adapter.startsWith('trainingJobs/')
      ? this.#byJob.get(adapter)
      : this.#byName.get(adapter.startsWith(PREFIX) ? adapter : `${PREFIX}${adapter}`);
    return row === undefined ? null : this.#adapter(row as unknown as Row);
  }

  list(after: string, count: number): StoredAdapter[] {
    return this.#list.all(after, count).map((row) => this.#adapter(row as unknown as Row));
  }

  /** Of the adapters with a base. */
  namesOf(baseModel: string): string[] {
    return this.#byBase.all(baseModel).map(({ name }) => String(name));
  }

  /** Writes a row, in place of one with the same name. */
  put(adapter: StoredAdapter): void {
    this.#put.run(
      adapter.name,
      adapter.baseModel,
      JSON.stringify(adapter.info),
      JSON.stringify(adapter.origin),
      adapter.templateVersion,
      adapter.sizeBytes,
      adapter.trainingJob,
      adapter.createTime.getTime(),
      basename(adapter.folder),
    );
  }

  delete(name: string): void {
    this.#delete.run(name);
  }

  /** Whether a folder of this name holds an adapter's files. */
  ownsFolder(name: string): boolean {
    return this.#byFolder.get(name) !== undefined;
  }

  #adapter(row: Row): StoredAdapter {
    return {
      name: row.name,
      baseModel: row.base_model,
      info: JSON.parse(row.info) as AdapterInfo,
      origin: JSON.parse(row.origin) as AdapterMetadata,
      templateVersion: row.template_version,
      sizeBytes: row.size_bytes,
      trainingJob: row.training_job,
      createTime: new Date(row.create_time),
      folder: join(this.#folder, row.folder),
    };
  }
}
