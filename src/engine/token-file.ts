/**
 * The file that carries examples to the engine, which maps it: layout, header and checks. `docs/token-cache.md` has the layout in full;
 * `engine/core/src/model/token_file.rs` reads it.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';

const MAGIC = 'LUTHTOKS';
const VERSION = 1;
/** Bytes before the tokens. */
export const HEADER_BYTES = 128;
/** Of a token: its id and its label. */
export const TOKEN_BYTES = 8;
/** Of an example's end, and of its hash. */
const NUMBER_BYTES = 8;
/** Bytes read at once. */
const PIECE = 2 ** 20;

/** What a file says of itself. */
export interface TokenFileHeader {
  /** What the contents follow from: 32 bytes in hex. */
  readonly key: string;
  readonly examples: number;
  readonly tokens: number;
  /** Labels that are learned. */
  readonly labelTokens: number;
  /** Length of the JSON at the end. */
  readonly summaryBytes: number;
  /** CRC-32 of everything after the header. */
  readonly checksum: number;
}

/** A file that is not whole, or is no token file. */
class TokenFileError extends Error {
  override readonly name = 'TokenFileError';
}

/** The header as it stands in the file. */
export function encodeHeader(header: TokenFileHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.write(MAGIC, 0, 'latin1');
  bytes.writeUInt32LE(VERSION, 8);
  bytes.write(header.key, 16, 'hex');
  const { examples, tokens, labelTokens, summaryBytes } = header;
  [examples, tokens, labelTokens, summaryBytes].forEach((value, index) => {
    bytes.writeBigUInt64LE(BigInt(value), 48 + 8 * index);
  });
  bytes.writeUInt32LE(header.checksum, 80);
  bytes.writeUInt32LE(crc32(bytes.subarray(16)), 12);
  return bytes;
}

/** @throws TokenFileError */
function decodeHeader(bytes: Buffer): TokenFileHeader {
  if (bytes.length < HEADER_BYTES || bytes.toString('latin1', 0, 8) !== MAGIC) {
    throw new TokenFileError('expected a token file, found other bytes');
  }
  if (bytes.readUInt32LE(8) !== VERSION) {
    throw new TokenFileError(`expected version ${VERSION}, found ${bytes.readUInt32LE(8)}`);
  }
  if (bytes.readUInt32LE(12) !== crc32(bytes.subarray(16))) throw new TokenFileError("the header's checksum differs");
  const number = (place: number): number => Number(bytes.readBigUInt64LE(place));
  return {
    key: bytes.toString('hex', 16, 48),
    examples: number(48),
    tokens: number(56),
    labelTokens: number(64),
    summaryBytes: number(72),
    checksum: bytes.readUInt32LE(80),
  };
}

/** Where the parts after the tokens begin, and where the file ends. */
export function placesOf({ examples, tokens, summaryBytes }: TokenFileHeader) {
  const ends = HEADER_BYTES + TOKEN_BYTES * tokens;
  const hashes = ends + NUMBER_BYTES * examples;
  const summary = hashes + NUMBER_BYTES * examples;
  return { ends, hashes, summary, end: summary + summaryBytes };
}

/** The bytes of a part of a file, in pieces that are overwritten by the next one. */
async function* pieces(file: FileHandle, from: number, to: number): AsyncGenerator<Buffer, void, undefined> {
  const buffer = Buffer.allocUnsafe(Math.min(PIECE, to - from));
  for (let at = from; at < to; ) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, to - at), at);
    if (bytesRead === 0) throw new TokenFileError(`expected ${to} bytes, found ${at}`);
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}

async function readHeader(file: FileHandle): Promise<TokenFileHeader> {
  const bytes = Buffer.alloc(HEADER_BYTES);
  const { bytesRead } = await file.read(bytes, 0, HEADER_BYTES, 0);
  const header = decodeHeader(bytes.subarray(0, bytesRead));
  const { size } = await file.stat();
  const { end } = placesOf(header);
  if (size !== end) throw new TokenFileError(`expected ${end} bytes, found ${size}`);
  return header;
}

/**
 * Reads a whole file and checks every byte of it.
 * @returns What it says of itself, and the JSON at its end.
 * @throws TokenFileError where anything differs; the system's errors; the signal's reason
 */
export async function checkTokenFile(
  path: string,
  signal: AbortSignal,
): Promise<{ readonly header: TokenFileHeader; readonly summary: unknown }> {
  const file = await open(path, 'r');
  try {
    const header = await readHeader(file);
    const { summary, end } = placesOf(header);
    let checksum = 0;
    for await (const piece of pieces(file, HEADER_BYTES, end)) {
      signal.throwIfAborted();
      checksum = crc32(piece, checksum);
    }
    if (checksum !== header.checksum) throw new TokenFileError('the checksum differs');
    const text = Buffer.alloc(header.summaryBytes);
    await file.read(text, 0, text.length, summary);
    return { header, summary: JSON.parse(text.toString()) };
  } finally {
    await file.close();
  }
}

/** A hash, given by its halves, in [0, 1): its upper 53 bits, which a number holds exactly. */
export const shareOf = (high: number, low: number): number => (high * 2 ** 21 + (low >>> 11)) / 2 ** 53;

/** How many examples have a hash below a share. @throws TokenFileError */
export async function countHeldOut(path: string, share: number): Promise<number> {
  const file = await open(path, 'r');
  try {
    const header = await readHeader(file);
    const { hashes, summary } = placesOf(header);
    let count = 0;
    for await (const piece of pieces(file, hashes, summary)) {
      for (let at = 0; at < piece.length; at += NUMBER_BYTES) {
        if (shareOf(piece.readUInt32LE(at + 4), piece.readUInt32LE(at)) < share) count += 1;
      }
    }
    return count;
  } finally {
    await file.close();
  }
}
