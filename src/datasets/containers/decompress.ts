/** Compressed bytes to plain ones, within a bound: a small file must not become a huge one. */
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import type { Compression } from '../file-layout.ts';
import { FREE_EXPANSION_BYTES, MAX_EXPANSION, READ_BYTES } from '../limits.ts';
import { ContainerError } from './container-error.ts';

const GZIP_MAGIC = [0x1f, 0x8b];
const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];

/** Memory that a zstd frame may ask for, as a power of two: what zstd itself takes without being asked for more. */
const ZSTD_WINDOW_LOG = 27;

const startsWith = (bytes: Uint8Array, magic: readonly number[]): boolean =>
  magic.every((byte, index) => bytes[index] === byte);

/** How a file is compressed, by its first four bytes. */
export function detectCompression(head: Uint8Array): Compression {
  if (startsWith(head, GZIP_MAGIC)) return 'gzip';
  return startsWith(head, ZSTD_MAGIC) ? 'zstd' : 'none';
}

interface DecoderError extends Error {
  readonly code: string;
}

const isDecoderError = (error: unknown): error is DecoderError =>
  error instanceof Error && 'code' in error && /^(Z_|ZSTD_)/.test(String(error.code));

function damaged(compression: Compression, { code, message }: DecoderError): ContainerError {
  if (code === 'Z_BUF_ERROR' || code === 'ZSTD_error_srcSize_wrong') {
    return new ContainerError(
      'TRUNCATED',
      `expected a whole ${compression} file, found its end missing; copy it again`,
    );
  }
  if (code === 'ZSTD_error_frameParameter_windowTooLarge') {
    const description = `expected a zstd window of at most ${2 ** (ZSTD_WINDOW_LOG - 20)} MiB, found a larger one; compress without --long`;
    return new ContainerError('DAMAGED_COMPRESSION', description);
  }
  const description = `expected a sound ${compression} file, found damaged bytes (${message}); copy or compress it again`;
  return new ContainerError('DAMAGED_COMPRESSION', description);
}

type Decoder = ReturnType<typeof createGunzip> | ReturnType<typeof createZstdDecompress>;

const createDecoder = (compression: Exclude<Compression, 'none'>): Decoder =>
  compression === 'gzip'
    ? createGunzip({ chunkSize: READ_BYTES })
    : createZstdDecompress({ chunkSize: READ_BYTES, params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG } });

/** Compressed pieces, and what a decoder left of the last one. */
class CompressedPieces {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();
  /** Bytes taken from the source. */
  bytes = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#pieces = source[Symbol.asyncIterator]();
  }

  /** True where something is left for another decoder. */
  get more(): boolean {
    return this.#rest.length > 0;
  }

  /**
   * Writes into a decoder until the source ends, or until the decoder takes no more: where a zstd frame ends within a piece, Node's decoder
   * ends, too, and drops what follows without a word.
   */
  async feed(decoder: Decoder): Promise<void> {
    for (;;) {
      const piece = this.more ? this.#rest : await this.#next();
      if (piece === null) {
        decoder.end();
        return;
      }
      const before = decoder.bytesWritten;
      await new Promise<void>((resolve, reject) =>
        decoder.write(piece, (error) => (error ? reject(error) : resolve())),
      );
      if (decoder.bytesWritten === before) {
        throw Object.assign(new Error('nothing more can be decoded'), { code: 'Z_DATA_ERROR' });
      }
      this.#rest = piece.subarray(decoder.bytesWritten - before);
      if (this.more) return;
    }
  }

  async close(): Promise<void> {
    await this.#pieces.return?.();
  }

  async #next(): Promise<Uint8Array | null> {
    const next = await this.#pieces.next();
    if (next.done) return null;
    this.bytes += next.value.length;
    return next.value;
  }
}

/** @throws ContainerError where the bytes are damaged, cut off or expand too far; what `source` throws */
export async function* decompress(
  source: AsyncIterable<Uint8Array>,
  compression: Exclude<Compression, 'none'>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const pieces = new CompressedPieces(source);
  let written = 0;
  try {
    do {
      const decoder = createDecoder(compression);
      const fed = pieces.feed(decoder);
      fed.catch((error: Error) => decoder.destroy(error));
      try {
        for await (const piece of decoder as AsyncIterable<Uint8Array>) {
          written += piece.length;
          if (written > FREE_EXPANSION_BYTES && written > MAX_EXPANSION * pieces.bytes) {
            const description = `expected at most ${MAX_EXPANSION} times the compressed size, found more: ${pieces.bytes} bytes became ${written}; send it uncompressed`;
            throw new ContainerError('EXPANDS_TOO_FAR', description);
          }
          yield piece;
        }
        await fed;
      } finally {
        decoder.destroy();
      }
    } while (pieces.more);
  } catch (error) {
    throw isDecoderError(error) ? damaged(compression, error) : error;
  } finally {
    await pieces.close();
  }
}
