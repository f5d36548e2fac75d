/** Folders that are there whole or not at all, also after a power cut. */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';

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
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
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
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOTEMPTY' || code === 'EEXIST';
}
