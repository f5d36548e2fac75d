/** Bytes to lines of text, piece by piece, however the pieces are cut. */
import type { FieldViolation } from '../errors/luthier-error.ts';

/** A line that is not blank: its text, or what is wrong with its bytes. */
export type Line =
  | { readonly number: number; readonly text: string }
  | { readonly number: number; readonly problem: FieldViolation };

/** Longest line of a data set, in bytes. */
const MAX_LINE_BYTES = 16 * 2 ** 20;

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const BOM = [0xef, 0xbb, 0xbf];

const startsWithBom = (bytes: Uint8Array): boolean => BOM.every((byte, index) => bytes[index] === byte);

function join(pieces: readonly Uint8Array[]): Uint8Array {
  return pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces);
}

/**
 * Cuts a stream of bytes into lines at LF or CRLF. Lines are numbered from 1 as an editor shows them; blank ones are counted and left out.
 * A byte order mark at the start is skipped. UTF-8 is strict: nothing is replaced in silence.
 */
export class LineSplitter {
  readonly #maxLineBytes: number;
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  #pieces: Uint8Array[] = [];
  #pending = 0;
  #number = 0;

  constructor(maxLineBytes: number = MAX_LINE_BYTES) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** The lines that end within this piece. The piece must not change afterwards. */
  push(piece: Uint8Array): Line[] {
    const lines: Line[] = [];
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      this.#keep(piece.subarray(start, end));
      lines.push(...this.#take());
      start = end + 1;
    }
    this.#keep(piece.subarray(start));
    return lines;
  }

  /** The last line, where the file does not end with a newline. */
  end(): Line[] {
    return this.#pending === 0 ? [] : this.#take();
  }

  /** What is beyond the limit is counted, not kept. */
  #keep(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#pending += bytes.length;
    if (this.#pending <= this.#maxLineBytes) this.#pieces.push(bytes);
    else this.#pieces = [];
  }

  #take(): Line[] {
    const length = this.#pending;
    let bytes = join(this.#pieces);
    this.#pieces = [];
    this.#pending = 0;
    this.#number += 1;
    const number = this.#number;
    const problem = (description: string, reason: string): Line[] => [
      { number, problem: { field: `line[${number}]`, description, reason } },
    ];
    if (length > this.#maxLineBytes) {
      return problem(`expected at most ${this.#maxLineBytes} bytes, found ${length}`, 'LINE_TOO_LONG');
    }
    if (number === 1 && startsWithBom(bytes)) bytes = bytes.subarray(BOM.length);
    if (bytes.at(-1) === CARRIAGE_RETURN) bytes = bytes.subarray(0, -1);
    try {
      const text = this.#decoder.decode(bytes);
      return text.trim() === '' ? [] : [{ number, text }];
    } catch {
      return problem('expected UTF-8, found bytes that are none; save the file as UTF-8', 'NOT_UTF8');
    }
  }
}
