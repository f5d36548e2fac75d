/** Turns files and iterables into the pieces of an upload. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import type { DeepPartial } from './gen/luthier/v1/dataset_service.ts';
import {
  CheckDatasetHeader,
  type CheckDatasetRequest,
  UploadDatasetHeader,
  type UploadDatasetRequest,
} from './gen/luthier/v1/dataset_service.ts';

/** Bytes of a message's chunk: well under the contract's limit of 1 MiB. */
export const CHUNK_BYTES = 256 * 1024;

/** A file in pieces of any size; strings are encoded as UTF-8. */
export type UploadSource = AsyncIterable<Uint8Array | string> | Iterable<Uint8Array | string>;

/** A source cut into pieces that a message may carry. */
async function* chunksOf(source: UploadSource) {
  for await (const piece of source) {
    const bytes = typeof piece === 'string' ? Buffer.from(piece, 'utf8') : piece;
    for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
      const chunk = bytes.subarray(start, start + CHUNK_BYTES);
      yield { $case: 'chunk' as const, value: Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength) };
    }
  }
}

/** The header, then the source. */
export async function* checkMessages(
  header: DeepPartial<CheckDatasetHeader>,
  source: UploadSource,
): AsyncGenerator<CheckDatasetRequest, void, undefined> {
  yield { part: { $case: 'header', value: CheckDatasetHeader.fromPartial(header) } };
  for await (const part of chunksOf(source)) yield { part };
}

/** The header, then the source. */
export async function* uploadMessages(
  header: DeepPartial<UploadDatasetHeader>,
  source: UploadSource,
): AsyncGenerator<UploadDatasetRequest, void, undefined> {
  yield { part: { $case: 'header', value: UploadDatasetHeader.create(header) } };
  for await (const part of chunksOf(source)) yield { part };
}

/** SHA-256 of a file, hex. */
export async function fileSha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
