import { rm } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Database } from './database.ts';
import { isWritingFolder } from './durable-folders.ts';

/** The table, for the database's list of migrations. */
export const WRITING_FOLDER_TABLE = `CREATE TABLE writing_folders (
  path TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID`;

/** Half-made folders outside of the data folder, so that the next server finds those that a crash left behind. */
export class WritingFolders {
  readonly #all;
  readonly #add;
  readonly #remove;

  constructor(database: Database) {
    this.#all = database.prepare('SELECT path FROM writing_folders');
    this.#add = database.prepare('INSERT INTO writing_folders VALUES (?)');
    this.#remove = database.prepare('DELETE FROM writing_folders WHERE path = ?');
  }

  /** Before it is made. @param path Absolute; its name must be one of `writingFolderIn`. */
  add(path: string): void {
    this.#add.run(path);
  }

  /** Once it is gone or has its final name. */
  remove(path: string): void {
    this.#remove.run(path);
  }

  /** Deletes what a crash left behind; what cannot be reached now, such as a disk that is not there, stays for later. */
  async removeLeftovers(): Promise<void> {
    for (const row of this.#all.all()) {
      const path = String(row.path);
      if (!isWritingFolder(basename(path))) continue;
      const isGone = await rm(path, { recursive: true, force: true }).then(
        () => true,
        () => false,
      );
      if (isGone) this.remove(path);
    }
  }
}
