/** JSONL to examples, piece by piece: what every reading of a data set goes through. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import { violationsOf } from '../errors/violations.ts';
import {
  builtFormat,
  type ContractFormatName,
  detectFormat,
  type ExampleContent,
  type FormatName,
  LINE_SCHEMAS,
} from './formats.ts';
import { type Line, LineSplitter } from './line-splitter.ts';

/** An example of a data set. */
export interface Example {
  /** From 0, in the order of the file. */
  readonly index: number;
  /** From 1, as an editor shows it; blank lines count. */
  readonly line: number;
  readonly content: ExampleContent;
}

/** What a piece of a file held. */
export interface ParsedPiece {
  readonly examples: readonly Example[];
  readonly problems: readonly FieldViolation[];
}

/** A problem's place within its line, such as `line[7].messages[1].content`. */
const inLine = (line: number, field: string): string =>
  field === '' ? `line[${line}]` : `line[${line}]${field.startsWith('[') ? '' : '.'}${field}`;

/**
 * Reads the lines of a data set. The layout comes from the first line unless it is given; it never changes within a file. A line is an
 * example or has problems; both are told with their place.
 */
export class ExampleParser {
  readonly #splitter: LineSplitter;
  #format: FormatName | null;
  #examples = 0;

  /**
   * @param format Null: detected from the first line.
   * @throws LuthierError NOT_BUILT_YET
   */
  constructor(format: ContractFormatName | null, splitter: LineSplitter = new LineSplitter()) {
    this.#format = format === null ? null : builtFormat(format);
    this.#splitter = splitter;
  }

  /** Null until the first line was read, and where it has none of the known layouts. */
  get format(): FormatName | null {
    return this.#format;
  }

  /** Examples read until now. */
  get examples(): number {
    return this.#examples;
  }

  /** @throws LuthierError NOT_BUILT_YET where the first line has a layout that is not built yet */
  push(piece: Uint8Array): ParsedPiece {
    return this.#parse(this.#splitter.push(piece));
  }

  /** What the last line held, where no newline ends it. */
  end(): ParsedPiece {
    return this.#parse(this.#splitter.end());
  }

  #parse(lines: readonly Line[]): ParsedPiece {
    const examples: Example[] = [];
    const problems: FieldViolation[] = [];
    for (const line of lines) {
      const read = 'problem' in line ? [line.problem] : this.#read(line.number, line.text);
      if (Array.isArray(read)) {
        problems.push(...read);
        continue;
      }
      examples.push({ index: this.#examples, line: line.number, content: read });
      this.#examples += 1;
    }
    return { examples, problems };
  }

  #read(number: number, text: string): ExampleContent | FieldViolation[] {
    const field = `line[${number}]`;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      const description = `expected a JSON object on one line, found text that is no JSON (${(error as Error).message})`;
      return [{ field, description, reason: 'NOT_JSON' }];
    }
    const layout = detectFormat(value);
    if (this.#format === null) {
      if (layout === null) {
        const description =
          'expected {"messages"}, {"prompt", "completion"} or {"input_ids", "labels"}; found none of them';
        return [{ field, description, reason: 'UNKNOWN_FORMAT' }];
      }
      this.#format = builtFormat(layout);
    }
    if (layout !== null && layout !== this.#format) {
      const description = `expected the ${this.#format} format, as the rest of the data set, found ${layout}`;
      return [{ field, description, reason: 'MIXED_FORMATS' }];
    }
    const result = LINE_SCHEMAS[this.#format].safeParse(value);
    if (result.success) return result.data;
    return violationsOf(result.error).map((problem) => ({
      field: inLine(number, problem.field),
      description: problem.description,
      reason: problem.reason === '' ? 'WRONG_SHAPE' : problem.reason,
    }));
  }
}

/** The examples of a whole text. @throws LuthierError NOT_BUILT_YET */
export function parseText(text: string, format: ContractFormatName | null): ParsedPiece {
  const parser = new ExampleParser(format);
  const [lines, last] = [parser.push(Buffer.from(text)), parser.end()];
  return { examples: [...lines.examples, ...last.examples], problems: [...lines.problems, ...last.problems] };
}
