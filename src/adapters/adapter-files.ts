/** A PEFT adapter's files: copied in and out, whole or not at all. */
import { constants } from 'node:fs';
import { copyFile, mkdir, readdir, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { checkPath } from '../models/allowed-path.ts';
import { isTaken, makeWritingFolder, moveIntoPlace, sync } from '../store/durable-folders.ts';

/** The settings of an adapter. */
export const CONFIG_FILE = 'adapter_config.json';
/** Its weights, as PEFT writes them and as it did at first: the first that is there counts. */
const WEIGHTS_FILES = ['adapter_model.safetensors', 'adapter_model.bin'] as const;
/** Files that an adapter may have: the settings and one of the others. Anything else in its folder is not part of it. */
export const ADAPTER_FILES = [CONFIG_FILE, ...WEIGHTS_FILES] as const;
/** For messages. */
export const EXPECTED_FILES = `${CONFIG_FILE} and ${WEIGHTS_FILES.join(' or ')}`;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';
const isMissing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR', 'EISDIR'].includes(codeOf(error));

/** Names of the two files of a folder; PEFT's own name where the weights are missing. */
export async function adapterFileNames(folder: string): Promise<readonly [string, string]> {
  const names = await readdir(folder).catch((error: unknown): string[] => {
    if (isMissing(error)) return [];
    throw error;
  });
  return [CONFIG_FILE, WEIGHTS_FILES.find((name) => names.includes(name)) ?? WEIGHTS_FILES[0]];
}

/** Writes the files through to the disk. @returns Their bytes. */
export async function syncAdapterFiles(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await adapterFileNames(folder)) {
    const file = join(folder, name);
    await sync(file);
    bytes += (await stat(file)).size;
  }
  return bytes;
}

/**
 * Copies an adapter that a client named by path into an empty folder.
 * @throws LuthierError PATH_NOT_ALLOWED, for a link inside the folder that leads outside of the roots, too; ADAPTER_NOT_FOUND
 */
export async function copyFromPath(path: string, roots: readonly string[], folder: string): Promise<void> {
  const source = await checkPath(path, roots);
  for (const name of await adapterFileNames(source)) {
    const file = await checkPath(join(source, name), roots);
    await copyFile(file, join(folder, name), constants.COPYFILE_FICLONE).catch((error: unknown) => {
      if (!isMissing(error)) throw error;
      throw new LuthierError('ADAPTER_NOT_FOUND', `expected ${EXPECTED_FILES} in ${source}, found no ${name}`, {
        cause: error,
        resource: { type: 'adapter', name: path },
      });
    });
  }
}

function notEmpty(path: string): LuthierError {
  return new LuthierError(
    'EXPORT_TARGET_NOT_EMPTY',
    `${path} is there already and not an empty folder; choose another path or empty it`,
    { resource: { type: 'path', name: path } },
  );
}

/** Clears the way where an empty folder stands there. */
async function removeEmptyFolder(path: string): Promise<void> {
  try {
    await rmdir(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw isTaken(error) || codeOf(error) === 'ENOTDIR' ? notEmpty(path) : error;
  }
}

/**
 * Makes a folder that a client named; it appears whole or not at all.
 * @param fill Writes into an empty folder, through to the disk.
 * @returns The folder, and what `fill` gave.
 * @throws LuthierError PATH_NOT_ALLOWED, EXPORT_TARGET_NOT_EMPTY
 */
export async function writeFolderAt<Result>(
  path: string,
  roots: readonly string[],
  fill: (folder: string) => Promise<Result>,
): Promise<{ readonly path: string; readonly result: Result }> {
  const target = await checkPath(path, roots);
  await mkdir(dirname(target), { recursive: true });
  await removeEmptyFolder(target);
  const writing = await makeWritingFolder(dirname(target));
  try {
    const result = await fill(writing);
    await moveIntoPlace(writing, target).catch((error: unknown) => {
      throw isTaken(error) ? notEmpty(target) : error;
    });
    return { path: target, result };
  } finally {
    await rm(writing, { recursive: true, force: true });
  }
}

/**
 * Copies an adapter's files to a folder that a client named; it appears whole or not at all.
 * @returns The folder and its bytes.
 * @throws LuthierError PATH_NOT_ALLOWED, EXPORT_TARGET_NOT_EMPTY
 */
export async function copyToPath(
  folder: string,
  path: string,
  roots: readonly string[],
): Promise<{ readonly path: string; readonly sizeBytes: number }> {
  const { path: target, result } = await writeFolderAt(path, roots, async (writing) => {
    for (const name of await adapterFileNames(folder))
      await copyFile(join(folder, name), join(writing, name), constants.COPYFILE_FICLONE);
    return syncAdapterFiles(writing);
  });
  return { path: target, sizeBytes: result };
}
