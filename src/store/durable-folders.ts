/** Folders that are there whole or not at all, also after a power cut. */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { codeOf } from '../errors/error-code.ts';

/**
 * Makes a folder, and those above it that are missing, that stay after a power cut.
 * @param path Absolute.
 * @param mode Of new ones.
 */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const target = resolve(path);
  const first = await mkdir(target, { recursive: true, mode });
  if (first === undefined) return;
  for (let made = target; ; made = dirname(made)) {
    // A folder that may be written to but not read cannot be opened.
    await sync(dirname(made)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EACCES') throw error;
    });
    if (made === first) return;
  }
}

/** Names that no resource can have: what is being written and what is being deleted. */
const WRITING = '.writing-';
const DELETING = '.deleting-';

/** Writes a file's or a folder's contents through to the disk. */
export async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A name that no folder has yet, for one that is being written. */
export const writingFolderIn = (parent: string): string => join(parent, `${WRITING}${randomUUID()}`);

/** Whether a folder's name is one of those. */
export const isWritingFolder = (name: string): boolean => name.startsWith(WRITING);

/** A new folder beside the finished ones, to be filled and then moved into place. */
export async function makeWritingFolder(parent: string): Promise<string> {
  const folder = writingFolderIn(parent);
  await mkdir(folder);
  return folder;
}

/**
 * Gives a filled folder its final name. Its files must have been synced; the folder itself and its parent are synced here.
 * @throws the system's error ENOTEMPTY or EEXIST where the target is there and not empty
 */
export async function moveIntoPlace(folder: string, target: string): Promise<void> {
  await sync(folder);
  await rename(folder, target);
  await sync(dirname(target));
}

/** Takes a folder away at once; its files are then deleted. A folder that is not there is none to delete. */
export async function removeFolder(folder: string): Promise<void> {
  const grave = join(dirname(folder), `${DELETING}${randomUUID()}`);
  try {
    await rename(folder, grave);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw error;
  }
  await rm(grave, { recursive: true, force: true });
}

/** Deletes what a crash left behind: half-written and half-deleted folders, and those that nothing knows of. */
export async function removeLeftovers(parent: string, known: (name: string) => boolean): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!known(name)) await rm(join(parent, name), { recursive: true, force: true });
  }
}

/** True for the error of `moveIntoPlace` that says the target is taken. */
export function isTaken(error: unknown): boolean {
  return ['ENOTEMPTY', 'EEXIST'].includes(codeOf(error));
}
