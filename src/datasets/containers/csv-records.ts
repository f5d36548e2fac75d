/** CSV to records: a line of column names, then one example a record. Fields may hold line breaks. */
import { Readable } from 'node:stream';
import { CsvError, type Info, parse } from 'csv-parse';
import { MAX_EXAMPLE_BYTES } from '../limits.ts';
import { parseJson } from '../parse-json.ts';
import { ContainerError } from './container-error.ts';
import type { Delimiter } from './csv-header.ts';
import { type FileRecord, problemRecord } from './records.ts';
import { decodeUtf8, NOT_UTF8 } from './text-decoder.ts';

/** Columns whose cells hold JSON: a table has no lists. */
const JSON_COLUMNS: ReadonlySet<string> = new Set([
  'messages',
  'tools',
  'conversations',
  'history',
  'input_ids',
  'labels',
]);

/** Cells that may be empty because the field may be left out. */
const OPTIONAL_COLUMNS: ReadonlySet<string> = new Set(['history', 'input', 'id', 'system']);

const RECORDS_AT_ONCE = 256;

interface Parsed {
  readonly record: readonly Uint8Array[];
  readonly info: Info;
}

function wrongSyntax(error: CsvError, afterLine: number): ContainerError {
  const line = typeof error.lines === 'number' ? error.lines : afterLine + 1;
  const number = Math.max(afterLine + 1, 1);
  if (error.code === 'CSV_MAX_RECORD_SIZE') {
    const description = `expected at most ${MAX_EXAMPLE_BYTES} bytes in a record, found more; shorten it, or close a quote that is still open`;
    return new ContainerError('LINE_TOO_LONG', description, number);
  }
  if (error.code === 'CSV_QUOTE_NOT_CLOSED') {
    const description =
      'expected a closing quote, found the end of the file; close it, or double quotes within a field';
    return new ContainerError('NOT_CSV', description, number);
  }
  const description = `expected CSV (RFC 4180), found a stray quote in line ${line}; quote the whole field and double the quotes within it`;
  return new ContainerError('NOT_CSV', description, number);
}

/** Reads the column names of the first record. */
function headerOf(record: readonly Uint8Array[]): string[] {
  const names = record.map(decodeUtf8);
  if (names.some((name) => name === null)) throw new ContainerError('NOT_UTF8', NOT_UTF8, 1);
  const trimmed = (names as string[]).map((name) => name.trim());
  const twice = trimmed.find((name, index) => trimmed.indexOf(name) !== index);
  if (twice !== undefined) {
    const description = `expected every column name once, found ${JSON.stringify(twice)} twice; rename one`;
    throw new ContainerError('DUPLICATE_KEY', description, 1);
  }
  return trimmed;
}

function cellOf(name: string, text: string, number: number): unknown {
  if (text === '' && OPTIONAL_COLUMNS.has(name)) return undefined;
  if (!JSON_COLUMNS.has(name)) return text;
  const parsed = parseJson(text);
  if ('value' in parsed) return parsed.value;
  const { description, reason } = parsed.flaw;
  const where = `in the column ${name}`;
  if (reason !== 'NOT_JSON') return problemRecord(number, `${where}: ${description}`, reason);
  return problemRecord(number, `expected JSON ${where}, found text that is none (${description})`, reason);
}

const isProblem = (value: unknown): value is FileRecord =>
  typeof value === 'object' && value !== null && 'problem' in value && 'number' in value;

function recordOf(
  names: readonly string[],
  fieldOf: (name: string) => string,
  number: number,
  cells: readonly Uint8Array[],
): FileRecord {
  if (cells.length !== names.length) {
    const description = `expected ${names.length} columns, as the first line has, found ${cells.length}; quote fields that hold the separator`;
    return problemRecord(number, description, 'WRONG_COLUMN_COUNT');
  }
  const value: Record<string, unknown> = {};
  for (const [index, name] of names.entries()) {
    const text = decodeUtf8(cells[index] as Uint8Array);
    if (text === null) return problemRecord(number, NOT_UTF8, 'NOT_UTF8');
    const cell = cellOf(fieldOf(name), text, number);
    if (isProblem(cell)) return cell;
    if (cell !== undefined) value[name] = cell;
  }
  return { number, value };
}

/**
 * @param fieldOf The format's field that a column stands for: tells whether its cells hold JSON.
 * @throws ContainerError where quotes are unbalanced: what follows cannot be told apart any more
 */
export async function* csvRecords(
  bytes: AsyncIterable<Uint8Array>,
  delimiter: Delimiter,
  fieldOf: (column: string) => string,
): AsyncGenerator<FileRecord[], void, undefined> {
  let parsedLines = 0;
  const parser = parse({
    delimiter,
    // Cells as bytes: the parser would replace what is no UTF-8.
    encoding: null,
    info: true,
    max_record_size: MAX_EXAMPLE_BYTES,
    relax_column_count: true,
    skip_empty_lines: true,
    // At once, while the records themselves arrive later, or not at all where an error comes first.
    on_record: (record, context) => {
      parsedLines = context.lines;
      return record;
    },
  });
  const source = Readable.from(bytes, { objectMode: false });
  source.on('error', (error) => parser.destroy(error));
  source.pipe(parser);
  let names: string[] | null = null;

  let records: FileRecord[] = [];
  let lines = 0;
  try {
    for await (const { record, info } of parser as AsyncIterable<Parsed>) {
      const number = lines + 1;
      lines = info.lines;
      if (names === null) {
        names = headerOf(record);
        continue;
      }
      records.push(recordOf(names, fieldOf, number, record));
      if (records.length < RECORDS_AT_ONCE) continue;
      yield records;
      records = [];
    }
  } catch (error) {
    yield records;
    throw error instanceof CsvError ? wrongSyntax(error, parsedLines) : error;
  } finally {
    source.destroy();
    parser.destroy();
  }
  yield records;
}
