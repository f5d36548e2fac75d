import { DatabaseSync } from 'node:sqlite';
import { ServerStartError } from '../errors/server-start-error.ts';
import { MIGRATIONS } from './migrations.ts';
import { transaction } from './transaction.ts';

/** How long a transaction of another process is waited for. */
const BUSY_MILLISECONDS = 5000;

/** The server's database. Synchronous: keep transactions short. */
export type Database = DatabaseSync;

function version(database: Database): number {
  const row = database.prepare('PRAGMA user_version').get();
  return Number(row?.user_version ?? 0);
}

/** Brings a database up to date, one transaction for each step. */
function migrate(database: Database, file: string, migrations: readonly string[]): void {
  const found = version(database);
  if (found > migrations.length) {
    throw new ServerStartError(
      `${file} was written by a newer version of Luthier (its format is ${found}, this one knows ${migrations.length}); use that version, or another --data-dir`,
    );
  }
  for (const [index, sql] of migrations.entries()) {
    if (index < found) continue;
    transaction(database, () => {
      database.exec(sql);
      database.exec(`PRAGMA user_version = ${index + 1}`);
    });
  }
}

/**
 * Opens the database and brings it up to date. What is committed is on the disk (WAL with synchronous=FULL): it survives a kill and a
 * power cut.
 * @param file A path, or `:memory:`.
 * @throws ServerStartError for a file of a newer version, or one that is no database
 */
export function openDatabase(file: string, migrations: readonly string[] = MIGRATIONS): Database {
  const database = new DatabaseSync(file, { timeout: BUSY_MILLISECONDS });
  try {
    database.exec('PRAGMA journal_mode = WAL');
    database.exec('PRAGMA synchronous = FULL');
    database.exec('PRAGMA foreign_keys = ON');
    migrate(database, file, migrations);
    return database;
  } catch (error) {
    database.close();
    if (error instanceof ServerStartError) throw error;
    const text = `the database ${file} cannot be opened: ${(error as Error).message}; restore it from a copy, or use another --data-dir`;
    throw new ServerStartError(text, { cause: error });
  }
}
