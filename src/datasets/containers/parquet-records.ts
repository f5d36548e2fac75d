/** Parquet to records, row group by row group. */
import { type FileHandle, open } from 'node:fs/promises';
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib';
import {
  type AsyncBuffer,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
  type RowGroup,
  snappyUncompress,
} from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import {
  MAX_COLUMN_VALUES,
  MAX_FOOTER_BYTES,
  MAX_NESTED_ROW_GROUP_BYTES,
  MAX_ROW_GROUP_BYTES,
  MAX_ROW_GROUP_ROWS,
} from '../limits.ts';
import { ContainerError } from './container-error.ts';
import { type FileRecord, problemRecord } from './records.ts';
import { decodeUtf8, NOT_UTF8 } from './text-decoder.ts';

/** Characters of text in one batch of records, beside the last one's. */
const BATCH_CHARACTERS = 2 ** 20;
const BATCH_ROWS = 256;

/** Such a text takes less than what stands for a range of bytes. */
const SHORT_TEXT_BYTES = 96;

/** Text that is no UTF-8. */
class NotText {}
const NOT_TEXT = new NotText();

const MEBIBYTE = 2 ** 20;

async function readRange(handle: FileHandle, start: number, end: number, byteLength: number): Promise<ArrayBuffer> {
  if (!(start >= 0 && start <= end && end <= byteLength)) {
    throw new Error(`bytes ${start} to ${end} are not within the file's ${byteLength}`);
  }
  if (end - start > MAX_ROW_GROUP_BYTES) throw rowGroupTooLarge(`${end - start} bytes in one piece`);
  const buffer = new ArrayBuffer(end - start);
  const { bytesRead } = await handle.read(new Uint8Array(buffer), 0, end - start, start);
  if (bytesRead !== end - start) throw new Error('the file became shorter');
  return buffer;
}

/** A file by ranges. What lies beyond its end is refused here: the reader takes offsets as the file states them. */
function bufferOf(handle: FileHandle, byteLength: number): AsyncBuffer {
  return {
    byteLength,
    slice: (start, end = byteLength) => {
      const range = readRange(handle, start, end, byteLength);
      // The reader asks for several ranges and waits for one after another: one that fails meanwhile must not count as unhandled.
      range.catch(() => undefined);
      return range;
    },
  };
}

/** Decompressors that stop at the size of a row group, whatever a page says about itself. */
function boundedCompressors(): { readonly compressors: Compressors; readonly reset: () => void } {
  let left = MAX_ROW_GROUP_BYTES;
  const take = (length: number): number => {
    left -= length;
    if (length < 0 || left < 0) throw rowGroupTooLarge(`more than ${MAX_ROW_GROUP_BYTES / MEBIBYTE} MiB`);
    return length;
  };
  // At least 1: zlib takes no limit of 0.
  const limit = (length: number) => ({ maxOutputLength: Math.max(take(length), 1) });
  return {
    compressors: {
      SNAPPY: (input, length) => {
        const output = new Uint8Array(take(length));
        snappyUncompress(input, output);
        return output;
      },
      GZIP: (input, length) => gunzipSync(input, limit(length)),
      ZSTD: (input, length) => zstdDecompressSync(input, limit(length)),
      BROTLI: (input, length) => brotliDecompressSync(input, limit(length)),
    },
    reset: () => {
      left = MAX_ROW_GROUP_BYTES;
    },
  };
}

function rowGroupTooLarge(found: string): ContainerError {
  const description = `expected row groups of at most ${MAX_ROW_GROUP_BYTES / MEBIBYTE} MiB uncompressed (${MAX_NESTED_ROW_GROUP_BYTES / MEBIBYTE} MiB with lists or structs), ${MAX_ROW_GROUP_ROWS} rows and ${MAX_COLUMN_VALUES} values in a column, found ${found}; leave columns out, or write the file with a smaller row_group_size (docs/datasets.md has a line of pyarrow for it)`;
  return new ContainerError('ROW_GROUP_TOO_LARGE', description);
}

function notParquet(error: unknown): ContainerError {
  if (error instanceof ContainerError) return error;
  const { message } = error as Error;
  if (/unsupported compression codec/.test(message)) {
    const description = `expected pages compressed with snappy, gzip, zstd or brotli, or not at all; found another codec (${message}); write the file with one of those`;
    return new ContainerError('NOT_PARQUET', description);
  }
  const description = `expected a sound Parquet file, found one that is damaged or cut off (${message}); copy or write it again`;
  return new ContainerError('NOT_PARQUET', description);
}

/** @param read Columns that are read. */
function checkRowGroup({ num_rows, columns }: RowGroup, read: readonly string[]): number {
  const rows = Number(num_rows);
  if (rows > MAX_ROW_GROUP_ROWS) throw rowGroupTooLarge(`${rows} rows`);
  const used = columns.flatMap(({ meta_data }) =>
    meta_data !== undefined && read.includes(meta_data.path_in_schema[0] ?? '') ? [meta_data] : [],
  );
  const bytes = used.reduce((sum, { total_uncompressed_size }) => sum + Number(total_uncompressed_size), 0);
  const isNested = used.some(({ path_in_schema }) => path_in_schema.length > 1);
  if (bytes > (isNested ? MAX_NESTED_ROW_GROUP_BYTES : MAX_ROW_GROUP_BYTES)) {
    throw rowGroupTooLarge(`${Math.ceil(bytes / MEBIBYTE)} MiB`);
  }
  return rows;
}

/**
 * Looks at the head of every page before any is decoded: the number of values in it decides what a decoder allocates, and a few bytes can
 * state any number.
 */
async function checkPages(file: AsyncBuffer, { columns }: RowGroup, read: readonly string[]): Promise<void> {
  for (const { meta_data: column } of columns) {
    if (column === undefined || !read.includes(column.path_in_schema[0] ?? '')) continue;
    const start = Number(column.dictionary_page_offset || column.data_page_offset);
    const buffer = await file.slice(start, start + Number(column.total_compressed_size));
    const reader = { view: new DataView(buffer), offset: 0 };
    let values = 0;
    while (reader.offset < buffer.byteLength - 1) {
      const head = parquetHeader(reader);
      const page = head.data_page_header ?? head.data_page_header_v2 ?? head.dictionary_page_header;
      if (!(head.compressed_page_size >= 0)) throw new Error('a page has no size');
      values += Math.max(page?.num_values ?? 0, head.data_page_header_v2?.num_rows ?? 0);
      if (values > MAX_COLUMN_VALUES)
        throw rowGroupTooLarge(`${values} values in the column ${column.path_in_schema.join('.')}`);
      reader.offset += head.compressed_page_size;
    }
  }
}

/** The index stands at the end, and says itself how long it is. */
async function checkFooter(file: AsyncBuffer): Promise<void> {
  if (file.byteLength < 12) throw new Error('the file is too short');
  const length = new DataView(await file.slice(file.byteLength - 8, file.byteLength)).getUint32(0, true);
  if (length <= MAX_FOOTER_BYTES) return;
  const description = `expected an index of at most ${MAX_FOOTER_BYTES / MEBIBYTE} MiB, found ${length} bytes; write fewer row groups or columns`;
  throw new ContainerError('NOT_PARQUET', description);
}

/**
 * A row group is in memory as a whole, and its texts would be there twice. Long ones stay bytes of their page until their row's turn; short ones
 * are smaller as text.
 */
const textOrBytes = (bytes: Uint8Array | undefined): unknown =>
  bytes !== undefined && bytes.length <= SHORT_TEXT_BYTES ? (decodeUtf8(bytes) ?? NOT_TEXT) : bytes;

/** Values as JSON would have them. Null is what an absent field looks like in Parquet: it is left out of objects. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : value.toString();
  if (value instanceof Uint8Array) return decodeUtf8(value) ?? NOT_TEXT;
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, plain);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null || value instanceof NotText || value instanceof Date) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) =>
      member === null || member === undefined ? [] : [[key, plain(member)]],
    ),
  );
}

/** Characters of text in a value; `-1` where some of it is no text. */
function charactersOf(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (value instanceof NotText) return -1;
  if (typeof value !== 'object' || value === null) return 8;
  let sum = 0;
  for (const member of Array.isArray(value) ? value : Object.values(value)) {
    const characters = charactersOf(member);
    if (characters < 0) return -1;
    sum += characters;
  }
  return sum;
}

function columnsOf(metadata: FileMetaData, ignored: readonly string[]): string[] {
  return parquetSchema(metadata)
    .children.map(({ element }) => element.name)
    .filter((name) => !ignored.includes(name));
}

function* batches(rows: readonly Record<string, unknown>[], first: number): Generator<FileRecord[], void, undefined> {
  let records: FileRecord[] = [];
  let characters = 0;
  for (const [index, row] of rows.entries()) {
    const number = first + index + 1;
    const value = plain(row) as Record<string, unknown>;
    const size = charactersOf(value);
    records.push(size < 0 ? problemRecord(number, NOT_UTF8, 'NOT_UTF8') : { number, value });
    characters += Math.max(size, 0);
    if (records.length < BATCH_ROWS && characters < BATCH_CHARACTERS) continue;
    yield records;
    records = [];
    characters = 0;
  }
  yield records;
}

/**
 * Reads a Parquet file from the disk: its index stands at its end. Rows are numbered from 1.
 * @param ignored Columns that are not read.
 * @throws ContainerError where the file is damaged or holds more at once than this process takes
 */
export async function* parquetRecords(
  path: string,
  ignored: readonly string[],
): AsyncGenerator<FileRecord[], void, undefined> {
  const handle = await open(path);
  try {
    const file = bufferOf(handle, (await handle.stat()).size);
    const parsers = { stringFromBytes: textOrBytes };
    await checkFooter(file);
    const metadata = await parquetMetadataAsync(file, { geoparquet: false });
    const columns = columnsOf(metadata, ignored);
    const { compressors, reset } = boundedCompressors();
    let first = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = first + checkRowGroup(group, columns);
      await checkPages(file, group, columns);
      reset();
      const options = {
        file,
        metadata,
        columns,
        rowStart: first,
        rowEnd,
        compressors,
        parsers,
        geoparquet: false,
        utf8: false,
      };
      const rows = await parquetReadObjects(options);
      yield* batches(rows, first);
      first = rowEnd;
    }
  } catch (error) {
    throw notParquet(error);
  } finally {
    await handle.close();
  }
}
