import { constants, readFileSync } from 'node:fs';
import { access, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { ServerStartError } from '../errors/server-start-error.ts';
import { makeFolder } from './durable-folders.ts';

/** The folder that holds everything the server keeps, for this process alone until `close`. */
export interface DataFolder {
  /** Absolute. */
  readonly path: string;
  readonly databaseFile: string;
  readonly datasets: string;
  readonly adapters: string;
  /** What can be made again from data sets. */
  readonly tokenCache: string;
  /** What running jobs write; on the same file system as the rest, so that results are moved and not copied. */
  readonly jobs: string;
  /** States of jobs that they can go on from. */
  readonly checkpoints: string;
  /** Metrics of jobs, to be read by people and other programs; can be made again from the events. */
  readonly runs: string;
  /** Lets another server use the folder. Idempotent. */
  close(): void;
}

const SQLITE_BUSY = 5;
/** What the system says of a folder that others own, or that is on a disk mounted without writing. */
const READ_ONLY = new Set(['EACCES', 'EPERM', 'EROFS']);

/** Who wrote the file, for the message only: the lock decides. */
function processIn(owner: string): string {
  try {
    return ` (process ${readFileSync(owner, 'utf8')})`;
  } catch {
    return '';
  }
}

/**
 * Locks through SQLite: its lock is the operating system's, so it is gone with the process however that ends, and no stale file can
 * keep the next server out.
 */
function lock(path: string, owner: string): DatabaseSync {
  const database = new DatabaseSync(join(path, 'lock'));
  try {
    database.exec('BEGIN EXCLUSIVE');
    return database;
  } catch (error) {
    database.close();
    if ((error as { errcode?: number }).errcode !== SQLITE_BUSY) throw error;
    throw new ServerStartError(
      `the data folder ${path} is used by another server${processIn(owner)}; stop it, or name another folder with --data-dir`,
      { cause: error },
    );
  }
}

/** True for the error of `openDataFolder` that says that another server uses the folder. */
export function isFolderInUse(error: unknown): boolean {
  return (
    error instanceof ServerStartError && (error.cause as { errcode?: number } | undefined)?.errcode === SQLITE_BUSY
  );
}

/**
 * Makes the folder where needed (readable by its owner only) and takes it.
 * @throws ServerStartError where it cannot be made, cannot be written, or is used by another server
 */
export async function openDataFolder(path: string): Promise<DataFolder> {
  const folders = {
    datasets: join(path, 'datasets'),
    adapters: join(path, 'adapters'),
    tokenCache: join(path, 'token-cache'),
    jobs: join(path, 'jobs'),
    checkpoints: join(path, 'checkpoints'),
    runs: join(path, 'runs'),
  };
  let locked: DatabaseSync;
  try {
    await makeFolder(path, 0o700);
    await access(path, constants.R_OK | constants.W_OK | constants.X_OK);
    const owner = join(path, 'process');
    locked = lock(path, owner);
    await writeFile(owner, String(process.pid));
    for (const folder of Object.values(folders)) await makeFolder(folder, 0o700);
  } catch (error) {
    if (error instanceof ServerStartError) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    const why = READ_ONLY.has(code ?? '') ? `this process may not write there (${message})` : message;
    throw new ServerStartError(`the data folder ${path} cannot be used: ${why}; name another one with --data-dir`, {
      cause: error,
    });
  }
  let open = true;
  return {
    path,
    databaseFile: join(path, 'luthier.db'),
    ...folders,
    close: () => {
      if (open) locked.close();
      open = false;
    },
  };
}
