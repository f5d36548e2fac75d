/** A file to examples, in the thread that calls: what worker threads run, and what small files need no worker for. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import { ExampleInspector } from './checks/example-inspector.ts';
import { type RecordSource, readRecords } from './containers/read-records.ts';
import { type Example, ExampleParser, type ParsedPiece } from './example-parser.ts';
import type { FileHints, FileLayout } from './file-layout.ts';
import { SIGN_FIELDS } from './formats.ts';
import { EXAMPLES_AT_ONCE } from './limits.ts';

export interface ReadOptions extends FileHints {
  /** Also look for what may be read but is suspicious: `notices`. */
  readonly inspect: boolean;
}

/** A piece of a file, and what is known of the file after it. */
export interface FilePiece extends ParsedPiece {
  readonly layout: FileLayout;
  /** What is suspicious in the examples, though they can be learned from; empty unless asked for. */
  readonly notices: readonly FieldViolation[];
  /** Bytes of the file that were read until now. */
  readonly bytesRead: number;
}

/** Reads a whole file. Problems of single examples and of the file are told in the pieces. @throws what `source.bytes` throws */
export async function* readExamples(
  source: RecordSource,
  options: ReadOptions,
): AsyncGenerator<FilePiece, void, undefined> {
  const known = new Set([...SIGN_FIELDS, ...Object.values(options.columns.mapped)]);
  const parser = new ExampleParser(options.format, options.columns);
  const inspector = options.inspect ? new ExampleInspector(options.columns) : null;
  for await (const { container, compression, records, bytesRead } of readRecords(source, options, known)) {
    for (let first = 0; first === 0 || first < records.length; first += EXAMPLES_AT_ONCE) {
      const { examples, problems } = parser.parse(records.slice(first, first + EXAMPLES_AT_ONCE));
      const { format } = parser;
      const notices =
        inspector === null || format === null ? [] : examples.flatMap((example) => inspector.inspect(example, format));
      yield { examples, problems, notices, bytesRead, layout: { format, container, compression } };
    }
  }
}

/** The examples of a text in memory; never Parquet. Null: the text is empty. */
export async function readText(text: string, hints: FileHints): Promise<FilePiece | null> {
  async function* bytes() {
    yield Buffer.from(text);
  }
  const examples: Example[] = [];
  const problems: FieldViolation[] = [];
  let last: FilePiece | null = null;
  for await (const piece of readExamples({ path: null, bytes: bytes() }, { ...hints, inspect: false })) {
    examples.push(...piece.examples);
    problems.push(...piece.problems);
    last = piece;
  }
  return last === null ? null : { ...last, examples, problems };
}
