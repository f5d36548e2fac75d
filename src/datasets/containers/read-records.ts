/** The bytes of a file to records, whatever holds them. */
import { createReadStream } from 'node:fs';
import { type FileGrowth, growingBytes } from '../file-growth.ts';
import type { Columns, Compression, Container, FileHints } from '../file-layout.ts';
import { READ_BYTES } from '../limits.ts';
import { ArraySplitter } from './array-splitter.ts';
import { ContainerError } from './container-error.ts';
import { detectDelimiter } from './csv-header.ts';
import { decompress, detectCompression } from './decompress.ts';
import { LineSplitter } from './line-splitter.ts';
import { type FileRecord, problemRecord, type RecordSplitter } from './records.ts';

/** Bytes that a container is told by. */
const HEAD_BYTES = 64 * 1024;

const UTF8_BOM = [0xef, 0xbb, 0xbf];
const PARQUET_MAGIC = 'PAR1';

/** What was read of a file at once. */
export interface RecordBatch {
  readonly container: Container;
  readonly compression: Compression;
  readonly records: readonly FileRecord[];
  /** Bytes of the file read until now, as it is stored. */
  readonly bytesRead: number;
}

export interface RecordSource {
  /** The file on the disk; null: it is in memory only, and cannot be Parquet. */
  readonly path: string | null;
  readonly bytes: AsyncIterable<Uint8Array>;
  /** Until all of it is on the disk; absent: it is. */
  readonly whole?: () => Promise<void>;
}

const startsWith = (bytes: Uint8Array, magic: readonly number[]): boolean =>
  magic.every((byte, index) => bytes[index] === byte);

/** Takes bytes from the front until there are `HEAD_BYTES` of them; the rest comes after. */
async function takeHead(
  bytes: AsyncIterable<Uint8Array>,
): Promise<{ readonly head: Uint8Array; readonly rest: AsyncIterator<Uint8Array> }> {
  const rest = bytes[Symbol.asyncIterator]();
  const pieces: Uint8Array[] = [];
  for (let length = 0; length < HEAD_BYTES; ) {
    const next = await rest.next();
    if (next.done) break;
    pieces.push(next.value);
    length += next.value.length;
  }
  return { head: Buffer.concat(pieces), rest };
}

async function* joined(head: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for (let start = 0; start < head.length; start += READ_BYTES) yield head.subarray(start, start + READ_BYTES);
    for (let next = await rest.next(); !next.done; next = await rest.next()) yield next.value;
  } finally {
    await rest.return?.();
  }
}

function firstLine(head: Uint8Array): string {
  const end = head.indexOf(0x0a);
  return Buffer.from(end < 0 ? head : head.subarray(0, end))
    .toString('utf8')
    .trim();
}

/** What plain text holds, by its first character that is no space, or by a first line that names known columns. */
function detectText(head: Uint8Array, known: ReadonlySet<string>): Container {
  const start = Buffer.from(head.subarray(0, HEAD_BYTES)).toString('latin1').trimStart()[0];
  if (start === '[') return 'json';
  if (start === '{' || detectDelimiter(firstLine(head), known) === null) return 'jsonl';
  return 'csv';
}

async function* split(
  bytes: AsyncIterable<Uint8Array>,
  splitter: RecordSplitter,
): AsyncGenerator<FileRecord[], void, undefined> {
  for await (const piece of bytes) yield splitter.push(piece);
  yield splitter.end();
}

async function* textRecords(
  container: Container,
  bytes: AsyncIterable<Uint8Array>,
  head: Uint8Array,
  known: ReadonlySet<string>,
  columns: Columns,
): AsyncGenerator<FileRecord[], void, undefined> {
  if (container !== 'csv') {
    yield* split(bytes, container === 'json' ? new ArraySplitter() : new LineSplitter());
    return;
  }
  const fields = new Map(Object.entries(columns.mapped).map(([field, column]) => [column, field]));
  // Loaded where it is needed: most files are JSON, and every reading process loads its own.
  const { csvRecords } = await import('./csv-records.ts');
  yield* csvRecords(bytes, detectDelimiter(firstLine(head), known) ?? ',', (column) => fields.get(column) ?? column);
}

function checkEncoding(head: Uint8Array): void {
  if (!startsWith(head, [0xff, 0xfe]) && !startsWith(head, [0xfe, 0xff])) return;
  throw new ContainerError('NOT_UTF8', 'expected UTF-8, found UTF-16; save the file as UTF-8');
}

async function* counted(bytes: AsyncIterable<Uint8Array>, total: { bytes: number }) {
  for await (const piece of bytes) {
    total.bytes += piece.length;
    yield piece;
  }
}

/** The container that the caller named, checked against what the first bytes say. */
function checkedContainer(named: Container | null, isParquet: boolean): Container | null {
  if (named === null) return isParquet ? 'parquet' : null;
  if ((named === 'parquet') === isParquet) return named;
  const found = isParquet ? 'Parquet' : 'something else';
  throw new ContainerError(
    'WRONG_CONTAINER',
    `expected ${named}, as was said, found ${found}; leave it out to have it detected`,
  );
}

/**
 * Reads a file's records in order. A file that cannot be read on ends with a problem.
 * @param known Fields of the formats: what a first line of column names is told by.
 * @throws what `source.bytes` throws
 */
export async function* readRecords(
  source: RecordSource,
  hints: FileHints,
  known: ReadonlySet<string>,
): AsyncGenerator<RecordBatch, void, undefined> {
  const total = { bytes: 0 };
  let container: Container = hints.container ?? 'jsonl';
  let compression: Compression = 'none';
  const batch = (records: readonly FileRecord[]): RecordBatch => ({
    container,
    compression,
    records,
    bytesRead: total.bytes,
  });
  let open: AsyncIterator<Uint8Array> | null = null;
  try {
    const stored = await takeHead(counted(source.bytes, total));
    open = stored.rest;
    let bytes: AsyncIterable<Uint8Array> = joined(stored.head, stored.rest);
    let { head } = stored;
    compression = detectCompression(head);
    if (compression !== 'none') {
      const plain = await takeHead(decompress(bytes, compression));
      open = plain.rest;
      head = plain.head;
      bytes = joined(head, plain.rest);
    }
    checkEncoding(head);
    const isParquet = Buffer.from(head.subarray(0, 4)).toString('latin1') === PARQUET_MAGIC;
    const named = checkedContainer(hints.container, isParquet);
    if (named === 'parquet') {
      container = 'parquet';
      if (compression !== 'none' || source.path === null) {
        const description = `expected Parquet as a file of its own, found it ${source.path === null ? 'inline' : `within ${compression}`}; upload the Parquet file`;
        throw new ContainerError('WRONG_CONTAINER', description);
      }
      const { parquetRecords } = await import('./parquet-records.ts');
      // Its index stands at its end.
      await source.whole?.();
      for await (const records of parquetRecords(source.path, hints.columns.ignored)) yield batch(records);
      return;
    }
    // A byte order mark is no text. Only the first one: further on it is what it is.
    if (startsWith(head, UTF8_BOM)) {
      head = head.subarray(UTF8_BOM.length);
      bytes = skipping(bytes, UTF8_BOM.length);
    }
    container = named ?? detectText(head, known);
    for await (const records of textRecords(container, bytes, head, known, hints.columns)) yield batch(records);
  } catch (error) {
    if (!(error instanceof ContainerError)) throw error;
    yield batch([problemRecord(error.number, error.message, error.reason)]);
  } finally {
    await open?.return?.();
  }
}

async function* skipping(bytes: AsyncIterable<Uint8Array>, count: number) {
  let left = count;
  for await (const piece of bytes) {
    yield piece.subarray(left);
    left = 0;
  }
}

/** A file on the disk. */
export const fileSource = (path: string): RecordSource => ({
  path,
  bytes: createReadStream(path, { highWaterMark: READ_BYTES }),
});

/** A file that is still written. */
export const growingSource = (path: string, growth: FileGrowth): RecordSource => ({
  path,
  bytes: growingBytes(path, growth),
  whole: () => growth.beyond(Number.POSITIVE_INFINITY),
});
