/** Records to examples: what every reading of a data set goes through. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import { ColumnMapper } from './columns.ts';
import type { FileRecord } from './containers/records.ts';
import type { Columns } from './file-layout.ts';
import { detectFormat, type ExampleContent, FORMATS_IN_WORDS, type FormatName, readExample } from './formats.ts';
import { isFields } from './layouts/fields.ts';
import { parseJson } from './parse-json.ts';

/** An example of a data set. */
export interface Example {
  /** From 0, in the order of the file. */
  readonly index: number;
  /** From 1: the line an editor shows in JSONL (blank lines count) and CSV, the example's number in a JSON list and in Parquet. */
  readonly line: number;
  readonly content: ExampleContent;
}

/** What a piece of a file held. */
export interface ParsedPiece {
  readonly examples: readonly Example[];
  readonly problems: readonly FieldViolation[];
}

/** A problem's place within the file, such as `line[7].messages[1].content`. */
const inLine = (line: number, place: string): string => (place === '' ? `line[${line}]` : `line[${line}].${place}`);

/**
 * Reads the examples of a data set. The format comes from the first one unless it is given; it never changes within a file. A record is an
 * example or has problems; both are told with their place.
 */
export class ExampleParser {
  readonly #columns: ColumnMapper;
  #format: FormatName | null;
  #examples = 0;

  /** @param format Null: detected from the first example. */
  constructor(format: FormatName | null, columns: Columns) {
    this.#format = format;
    this.#columns = new ColumnMapper(columns);
  }

  /** Null until the first example was read, and where it has none of the known formats. */
  get format(): FormatName | null {
    return this.#format;
  }

  parse(records: readonly FileRecord[]): ParsedPiece {
    const examples: Example[] = [];
    const problems: FieldViolation[] = [];
    for (const record of records) {
      if ('problem' in record) {
        problems.push(record.problem);
        continue;
      }
      const { number } = record;
      const read = this.#read(record);
      if (!('kind' in read)) {
        for (const problem of read) {
          const place = this.#columns.nameInFile(problem.field);
          problems.push({ ...problem, field: inLine(number, place) });
        }
        continue;
      }
      examples.push({ index: this.#examples, line: number, content: read });
      this.#examples += 1;
    }
    return { examples, problems };
  }

  #read(record: Exclude<FileRecord, { readonly problem: FieldViolation }>): ExampleContent | readonly FieldViolation[] {
    const flaw = (description: string, reason: string): FieldViolation[] => [{ field: '', description, reason }];
    let value: unknown;
    if ('value' in record) value = record.value;
    else {
      const parsed = parseJson(record.text);
      if ('flaw' in parsed) {
        const { description, reason } = parsed.flaw;
        return flaw(reason === 'NOT_JSON' ? notJson(record, description) : description, reason);
      }
      value = parsed.value;
    }
    if (!isFields(value)) return flaw(`expected an object: ${FORMATS_IN_WORDS}; found none`, 'WRONG_SHAPE');
    const example = this.#columns.map(value);
    if (Array.isArray(example)) return example;
    return this.#readFields(example as Readonly<Record<string, unknown>>);
  }

  #readFields(example: Readonly<Record<string, unknown>>): ExampleContent | readonly FieldViolation[] {
    const format = detectFormat(example);
    if (this.#format === null) {
      if (format === null) {
        const names = Object.keys(example)
          .slice(0, 10)
          .map((name) => JSON.stringify(name.slice(0, 40)));
        const description = `expected ${FORMATS_IN_WORDS}; found the fields ${names.join(', ') || '(none)'}; map the file's columns to fields (columns)`;
        return [{ field: '', description, reason: 'UNKNOWN_FORMAT' }];
      }
      this.#format = format;
    }
    if (format !== null && format !== this.#format && !hasSignOf(this.#format, example)) {
      const description = `expected the ${this.#format} format, as the rest of the data set, found ${format}`;
      return [{ field: '', description, reason: 'MIXED_FORMATS' }];
    }
    return readExample(this.#format, example);
  }
}

/** Whether an example has a field that tells this format, beside others. */
const hasSignOf = (format: FormatName, example: Readonly<Record<string, unknown>>): boolean =>
  Object.keys(example).some((key) => detectFormat({ [key]: null }) === format);

function notJson({ number, text }: { readonly number: number; readonly text: string }, problem: string): string {
  const start = text.slice(0, 200).trimStart();
  const hint =
    start === '{' || start === '['
      ? '; an object may not be spread over lines: write one example a line, or all of them in one list'
      : number === 1 && /^[\p{L}_"]/u.test(start)
        ? '; for CSV, name the fields of a format in the first line, or map its columns (columns)'
        : '';
  return `expected a JSON object, found text that is no JSON (${problem})${hint}`;
}
