import type { ModelMetadata } from '../engine/engine.ts';
import type { Database } from '../store/database.ts';
import type { FileStamp } from './model-files.ts';

/** What is known of a model without its tokenizer, which may be large. */
export type ModelFacts = Omit<ModelMetadata, 'tokenizer'>;

/** A model that the server remembers. Its files stay where they are. */
export interface ImportedModel {
  /** Of `models/{id}`. */
  readonly id: string;
  /** Absolute, without symbolic links. */
  readonly path: string;
  readonly facts: ModelFacts;
  readonly hasChatTemplate: boolean;
  /** As they were imported. */
  readonly files: readonly FileStamp[];
  readonly settingsDigest: string;
  readonly importTime: Date;
}

/** The table, for the database's list of migrations. `facts` and `files` are JSON. */
export const IMPORTED_MODEL_TABLE = `CREATE TABLE imported_models (
  id TEXT PRIMARY KEY,
  path TEXT NOT NULL UNIQUE,
  facts TEXT NOT NULL,
  has_chat_template INTEGER NOT NULL,
  files TEXT NOT NULL,
  settings_digest TEXT NOT NULL,
  import_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID`;

interface Row {
  readonly id: string;
  readonly path: string;
  readonly facts: string;
  readonly has_chat_template: number;
  readonly files: string;
  readonly settings_digest: string;
  readonly import_time: number;
}

const fromRow = (row: Row): ImportedModel => ({
  id: row.id,
  path: row.path,
  facts: JSON.parse(row.facts) as ModelFacts,
  hasChatTemplate: row.has_chat_template === 1,
  files: JSON.parse(row.files) as FileStamp[],
  settingsDigest: row.settings_digest,
  importTime: new Date(row.import_time),
});

/** The imports, in the database. */
export class ImportedModels {
  readonly #byId;
  readonly #byPath;
  readonly #all;
  readonly #put;
  readonly #delete;

  constructor(database: Database) {
    this.#byId = database.prepare('SELECT * FROM imported_models WHERE id = ?');
    this.#byPath = database.prepare('SELECT * FROM imported_models WHERE path = ?');
    this.#all = database.prepare('SELECT * FROM imported_models ORDER BY id');
    this.#put = database.prepare('REPLACE INTO imported_models VALUES (?, ?, ?, ?, ?, ?, ?)');
    this.#delete = database.prepare('DELETE FROM imported_models WHERE id = ?');
  }

  find(id: string): ImportedModel | null {
    const row = this.#byId.get(id);
    return row === undefined ? null : fromRow(row as unknown as Row);
  }

  findByPath(path: string): ImportedModel | null {
    const row = this.#byPath.get(path);
    return row === undefined ? null : fromRow(row as unknown as Row);
  }

  all(): readonly ImportedModel[] {
    return this.#all.all().map((row) => fromRow(row as unknown as Row));
  }

  /** Remembers a model, in place of one with its id. */
  put(model: ImportedModel): void {
    const { id, path, hasChatTemplate, settingsDigest, importTime } = model;
    const json = [JSON.stringify(model.facts), Number(hasChatTemplate), JSON.stringify(model.files)] as const;
    this.#put.run(id, path, ...json, settingsDigest, importTime.getTime());
  }

  delete(id: string): void {
    this.#delete.run(id);
  }
}
