/** A PEFT adapter's files: copied in and out, whole or not at all. */
import { constants } from 'node:fs';
import { copyFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { checkNewFolder, checkPath } from '../models/allowed-path.ts';
import { sync } from '../store/durable-folders.ts';
import { NewFolder } from '../store/new-folder.ts';
import type { WritingFolders } from '../store/writing-folders.ts';

/** What an adapter's folder holds; anything else in it is not part of the adapter. */
export const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors'] as const;

const codeOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? '';
const isMissing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR', 'EISDIR'].includes(codeOf(error));

/** Writes the files through to the disk. @returns Their bytes. */
export async function syncAdapterFiles(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of ADAPTER_FILES) {
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
  for (const name of ADAPTER_FILES) {
    const file = await checkPath(join(source, name), roots);
    await copyFile(file, join(folder, name), constants.COPYFILE_FICLONE).catch((error: unknown) => {
      if (!isMissing(error)) throw error;
      throw new LuthierError(
        'ADAPTER_NOT_FOUND',
        `expected ${ADAPTER_FILES.join(' and ')} in ${source}, found no ${name}`,
        {
          cause: error,
          resource: { type: 'adapter', name: path },
        },
      );
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
  for (const name of ADAPTER_FILES) {
    await copyFile(join(folder, name), join(written.path, name), constants.COPYFILE_FICLONE);
  }
  const sizeBytes = await syncAdapterFiles(written.path);
  await written.finish();
  return { path: written.target, sizeBytes };
}
