/** What a watched process did to its files, in order (`shim/journal.c` writes it). */
import { readFileSync } from 'node:fs';

const MAGIC = 0x43484153;
const HEAD_BYTES = 48;

/** `enum operation` of shim/chaos.h, as far as it is recorded. */
const KINDS = ['', 'create', 'truncate', 'write', 'rename', 'unlink', 'mkdir', 'sync', 'link', 'rmdir'] as const;

export interface Operation {
  readonly kind: Exclude<(typeof KINDS)[number], ''>;
  /** Nanoseconds of CLOCK_MONOTONIC, which is `process.hrtime.bigint()`. */
  readonly begin: bigint;
  /** Of the file or folder; 0 for unlink and rmdir. */
  readonly inode: bigint;
  /** Of a write; the length of a truncate. */
  readonly offset: number;
  /** Below the watched folder; of a rename and a link, the first one. */
  readonly path: string;
  /** The second path of a rename and a link. */
  readonly other: string;
  /** Of a write. */
  readonly data: Buffer;
}

/** Reads a journal; a last record that a kill cut off is left out. @throws Error for a file that is none */
export function readJournal(path: string): Operation[] {
  const bytes = readFileSync(path);
  const operations: Operation[] = [];
  for (let at = 0; at + HEAD_BYTES <= bytes.length; ) {
    const number = bytes.readUInt32LE(at + 4);
    const kind = KINDS[number];
    if (bytes.readUInt32LE(at) !== MAGIC || kind === undefined || kind === '') {
      throw new Error(`${path} is no journal: found operation ${number} at byte ${at}`);
    }
    const lengths = [bytes.readUInt32LE(at + 32), bytes.readUInt32LE(at + 36), Number(bytes.readBigUInt64LE(at + 40))];
    const parts: Buffer[] = [];
    let end = at + HEAD_BYTES;
    for (const length of lengths) {
      parts.push(bytes.subarray(end, end + length));
      end += length;
    }
    if (end > bytes.length) break;
    const [first, second, data] = parts as [Buffer, Buffer, Buffer];
    operations.push({
      kind,
      begin: bytes.readBigUInt64LE(at + 8),
      inode: bytes.readBigUInt64LE(at + 16),
      offset: Number(bytes.readBigUInt64LE(at + 24)),
      path: first.toString('utf8'),
      other: second.toString('utf8'),
      data,
    });
    at = end;
  }
  return operations;
}
