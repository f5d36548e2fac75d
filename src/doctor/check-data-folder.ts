import { constants, existsSync } from 'node:fs';
import { access, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { ServerStartError } from '../errors/server-start-error.ts';
import { isFolderInUse, openDataFolder } from '../store/data-folder.ts';
import { type Finding, gibibytes, ok, sentence } from './finding.ts';

const NAME = 'data folder';
const ADVICE = 'name another folder with --data-dir, or change its rights';

/** Data sets, adapters and jobs need some room; SQLite fails in worse ways than a warning. */
const LITTLE_SPACE = 2 ** 30;

/** The folder itself, or the nearest one above it that exists. */
function nearestExisting(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : nearestExisting(dirname(path));
}

/** Whether the server could keep its data there. Makes nothing; a folder that was a server's before is opened as the server would. */
export async function checkDataFolder(path: string): Promise<Finding> {
  const existing = nearestExisting(path);
  try {
    await access(existing, constants.R_OK | constants.W_OK | constants.X_OK);
    if (existsSync(join(path, 'lock'))) (await openDataFolder(path)).close();
  } catch (error) {
    // The server that uses it has started.
    if (isFolderInUse(error)) return ok(NAME, `${path} is used by a server that runs`);
    const { message } = error as Error;
    const problem = error instanceof ServerStartError ? message : `${path} cannot be used: ${message}; ${ADVICE}`;
    return { name: NAME, status: 'failure', ...sentence(problem) };
  }
  const { bavail, bsize } = await statfs(existing);
  const found = `${path}${existing === path ? '' : ' (to be made)'}, ${gibibytes(bavail * bsize)} free`;
  if (bavail * bsize >= LITTLE_SPACE) return ok(NAME, found);
  return { name: NAME, status: 'warning', found, advice: 'make room, or name another folder with --data-dir' };
}
