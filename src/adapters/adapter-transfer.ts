/** An adapter's files as they travel: a list with sizes and hashes, then their bytes, one file after another. */
import { createHash } from 'node:crypto';
import { type FileHandle, open, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { adapterFileNames } from './adapter-files.ts';

/** A file on its way. */
export interface TransferredFile {
  readonly name: string;
  readonly sizeBytes: number;
  /** Lower-case hex. */
  readonly sha256: string;
}

/** Bytes of a piece: well under the contract's limit of 1 MiB. */
const PIECE_BYTES = 256 * 1024;

async function* pieces(file: FileHandle): AsyncGenerator<Uint8Array, void, undefined> {
  for (let position = 0; ; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(PIECE_BYTES), 0, PIECE_BYTES, position);
    if (bytesRead === 0) return;
    position += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

async function describe(folder: string, name: string, file: FileHandle): Promise<TransferredFile> {
  const hash = createHash('sha256');
  for await (const piece of pieces(file)) hash.update(piece);
  return { name, sizeBytes: (await stat(join(folder, name))).size, sha256: hash.digest('hex') };
}

/**
 * A stored adapter's files: first the list, then every piece. Files are opened before the list is given, so that a deletion meanwhile changes
 * nothing.
 */
export async function* sendAdapterFiles(
  folder: string,
): AsyncGenerator<readonly TransferredFile[] | Uint8Array, void, undefined> {
  const handles: FileHandle[] = [];
  try {
    const names = await adapterFileNames(folder);
    for (const name of names) handles.push(await open(join(folder, name), 'r'));
    const files: TransferredFile[] = [];
    for (const [index, name] of names.entries()) {
      const handle = handles[index];
      if (handle !== undefined) files.push(await describe(folder, name, handle));
    }
    yield files;
    for (const handle of handles) yield* pieces(handle);
  } finally {
    for (const handle of handles) await handle.close();
  }
}

const damaged = (message: string, metadata: Readonly<Record<string, string>>): LuthierError =>
  new LuthierError('CHECKSUM_MISMATCH', `${message}; send it again`, { metadata });

/** Writes one file through to the disk, from pieces that end where it ends. */
class FileWriter {
  readonly #file: FileHandle;
  readonly #announced: TransferredFile;
  readonly #hash = createHash('sha256');
  #left: number;

  constructor(file: FileHandle, announced: TransferredFile) {
    this.#file = file;
    this.#announced = announced;
    this.#left = announced.sizeBytes;
  }

  get done(): boolean {
    return this.#left === 0;
  }

  async write(piece: Uint8Array): Promise<void> {
    const { name } = this.#announced;
    if (piece.length > this.#left) {
      throw damaged(`${name} arrived with more bytes than announced, or a piece held those of two files`, { name });
    }
    this.#left -= piece.length;
    this.#hash.update(piece);
    await this.#file.writeFile(piece);
  }

  async end(): Promise<void> {
    const { name, sha256: expected } = this.#announced;
    const found = this.#hash.digest('hex');
    if (found !== expected) {
      throw damaged(`${name} arrived damaged: expected SHA-256 ${expected}, found ${found}`, { expected, found });
    }
    await this.#file.sync();
  }
}

/**
 * Writes what arrives into an empty folder.
 * @param files In the order in which their bytes arrive; names were checked.
 * @throws LuthierError CHECKSUM_MISMATCH, UPLOAD_INCOMPLETE; what `chunks` throws
 */
export async function receiveAdapterFiles(
  folder: string,
  files: readonly TransferredFile[],
  chunks: AsyncIterator<Uint8Array>,
): Promise<void> {
  for (const announced of files) {
    const { name, sizeBytes } = announced;
    const file = await open(join(folder, name), 'wx');
    try {
      const writer = new FileWriter(file, announced);
      while (!writer.done) {
        const next = await chunks.next();
        if (next.done) {
          const message = `the stream ended before ${name} did: expected ${sizeBytes} bytes of it; send all of it again`;
          throw new LuthierError('UPLOAD_INCOMPLETE', message);
        }
        await writer.write(next.value);
      }
      await writer.end();
    } finally {
      await file.close();
    }
  }
  if (!(await chunks.next()).done) throw damaged('bytes came behind the last file', {});
}
