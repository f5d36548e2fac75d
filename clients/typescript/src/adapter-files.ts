/** An adapter's files between a folder on this machine and messages. */
import { createHash, randomUUID } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { LuthierError } from './error.ts';
import type {
  AdapterFile,
  DownloadAdapterHeader,
  DownloadAdapterResponse,
  UploadAdapterHeader,
  UploadAdapterRequest,
} from './gen/luthier/v1/adapter_service.ts';
import { Status } from './status.ts';
import { CHUNK_BYTES, fileSha256 } from './upload.ts';

/** The weights of a PEFT folder, as PEFT writes them and as it did at first: the first that is there counts. */
const WEIGHTS_FILES = ['adapter_model.safetensors', 'adapter_model.bin'] as const;
const CONFIG_FILE = 'adapter_config.json';
const FILES: readonly string[] = [...WEIGHTS_FILES, CONFIG_FILE];
const EXPECTED = `${CONFIG_FILE} and ${WEIGHTS_FILES.join(' or ')}`;

/** The file with a PEFT folder's weights; PEFT's own name where there is none. */
export async function adapterWeightsFile(folder: string): Promise<string> {
  const names = await readdir(folder).catch((): string[] => []);
  return join(folder, WEIGHTS_FILES.find((name) => names.includes(name)) ?? WEIGHTS_FILES[0]);
}

/** Names, sizes and hashes of a PEFT folder's files. */
export async function adapterFiles(folder: string): Promise<AdapterFile[]> {
  const files: AdapterFile[] = [];
  for (const name of [basename(await adapterWeightsFile(folder)), CONFIG_FILE]) {
    const path = join(folder, name);
    const found = await stat(path).catch((cause: unknown) => {
      const message = `${folder} has no ${name}; expected a PEFT folder with ${EXPECTED}`;
      throw new LuthierError(message, { code: Status.NOT_FOUND, cause });
    });
    files.push({ name, sizeBytes: found.size, sha256: await fileSha256(path) });
  }
  return files;
}

/** The header, then the files it names, cut into pieces that a message may carry. */
export async function* adapterMessages(
  header: UploadAdapterHeader,
  folder: string,
): AsyncGenerator<UploadAdapterRequest, void, undefined> {
  yield { part: { $case: 'header', value: header } };
  for (const { name } of header.files) {
    for await (const chunk of createReadStream(join(folder, name), { highWaterMark: CHUNK_BYTES })) {
      yield { part: { $case: 'chunk', value: chunk as Buffer } };
    }
  }
}

const damaged = (message: string): LuthierError =>
  new LuthierError(`${message}; download it again`, { code: Status.DATA_LOSS });

async function writeFile(file: FileHandle, announced: AdapterFile, chunks: AsyncIterator<Buffer>): Promise<void> {
  const { name, sizeBytes, sha256 } = announced;
  const hash = createHash('sha256');
  for (let left = sizeBytes; left > 0; ) {
    const next = await chunks.next();
    if (next.done) throw damaged(`the stream ended before ${name} did`);
    left -= next.value.length;
    if (left < 0) throw damaged(`${name} came with more than the ${sizeBytes} bytes announced`);
    hash.update(next.value);
    await file.writeFile(next.value);
  }
  const found = hash.digest('hex');
  if (found !== sha256) throw damaged(`${name} arrived damaged: expected SHA-256 ${sha256}, found ${found}`);
  await file.sync();
}

async function* chunksOf(responses: AsyncIterator<DownloadAdapterResponse>): AsyncGenerator<Buffer, void, undefined> {
  for (let next = await responses.next(); !next.done; next = await responses.next()) {
    yield next.value.chunk;
  }
}

/** Runs an action on a folder; where the file system has something against it, that is the caller's to know. */
async function onFolder<Result>(folder: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (cause) {
    const { code = '', message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOTDIR' || code === 'EEXIST') {
      const text = `${folder} cannot be a folder: a file is there, or in its way; choose another one`;
      throw new LuthierError(text, { code: Status.ALREADY_EXISTS, cause });
    }
    if (code !== 'EACCES' && code !== 'EPERM' && code !== 'EROFS') throw cause;
    throw new LuthierError(`${folder} cannot be written: ${message}`, { code: Status.PERMISSION_DENIED, cause });
  }
}

/** Whether anything is there already; an empty folder is nothing. */
async function isTaken(folder: string): Promise<boolean> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
  return names.length > 0;
}

/**
 * Writes a download into a folder, which it makes; files get their names when all have arrived and their hashes are right.
 * @throws LuthierError ALREADY_EXISTS for a file, and without `overwrite` for a folder that is not empty; PERMISSION_DENIED; DATA_LOSS
 */
export async function receiveAdapter(
  responses: AsyncGenerator<DownloadAdapterResponse>,
  folder: string,
  { overwrite = false }: { readonly overwrite?: boolean | undefined },
): Promise<DownloadAdapterHeader> {
  const target = resolve(folder);
  if (!overwrite && (await onFolder(target, () => isTaken(target)))) {
    const message = `${target} is there already and not empty; choose another folder, or ask to overwrite it`;
    throw new LuthierError(message, { code: Status.ALREADY_EXISTS });
  }
  try {
    const first = await responses.next();
    const header = first.done ? undefined : first.value.header;
    if (header === undefined) throw damaged('the stream does not begin with the list of files');
    const { files } = header;
    // Names from a server are not paths of this machine.
    const strange = files.find(({ name }) => !FILES.includes(name));
    if (strange) throw damaged(`the server sends ${JSON.stringify(strange.name)}, expected ${EXPECTED}`);
    const writing = join(dirname(target), `.writing-${randomUUID()}`);
    await onFolder(target, () => mkdir(writing, { recursive: true }));
    try {
      const chunks = chunksOf(responses);
      for (const announced of files) {
        const file = await open(join(writing, announced.name), 'wx');
        await writeFile(file, announced, chunks).finally(() => file.close());
      }
      await onFolder(target, () => mkdir(target, { recursive: true }));
      // Old settings beside new weights would look like an adapter.
      await rm(join(target, 'adapter_config.json'), { force: true });
      // The settings last, so that a folder that has them is complete; weights of an earlier adapter would count before these.
      for (const name of FILES) {
        const isHere = files.some((file) => file.name === name);
        await (isHere ? rename(join(writing, name), join(target, name)) : rm(join(target, name), { force: true }));
      }
    } finally {
      await rm(writing, { recursive: true, force: true });
    }
    return header;
  } finally {
    await responses.return(undefined);
  }
}
