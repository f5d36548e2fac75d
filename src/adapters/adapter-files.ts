/** A PEFT adapter's files: copied in and out, whole or not at all. */
import { constants } from 'node:fs';
import { copyFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../errors/error-code.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { checkNewFolder, checkPath } from '../models/allowed-path.ts';
import { sync } from '../store/durable-folders.ts';
import { NewFolder } from '../store/new-folder.ts';
import type { WritingFolders } from '../store/writing-folders.ts';

/** The settings of an adapter. */
export const CONFIG_FILE = 'adapter_config.json';
/** Its weights, as PEFT writes them and as it did at first: the first that is there counts. */
const WEIGHTS_FILES = ['adapter_model.safetensors', 'adapter_model.bin'] as const;
/** Files that an adapter may have: the settings and one of the others. Anything else in its folder is not part of it. */
export const ADAPTER_FILES = [CONFIG_FILE, ...WEIGHTS_FILES] as const;
/** For messages. */
export const EXPECTED_FILES = `${CONFIG_FILE} and ${WEIGHTS_FILES.join(' or ')}`;

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

/**
 * Copies an adapter's files to a folder that a client named; it appears whole or not at all.
 * @returns The folder and its bytes.
 * @throws LuthierError PATH_NOT_ALLOWED, and those of `NewFolder.open`
 */
export async function copyToPath(
  folder: string,
  path: string,
  roots: readonly string[],
  writing: WritingFolders,
): Promise<{ readonly path: string; readonly sizeBytes: number }> {
  await using written = await NewFolder.open(await checkNewFolder(path, roots), writing);
  for (const name of await adapterFileNames(folder)) {
    await copyFile(join(folder, name), join(written.path, name), constants.COPYFILE_FICLONE);
  }
  const sizeBytes = await syncAdapterFiles(written.path);
  await written.finish();
  return { path: written.target, sizeBytes };
}
