/** Bytes to lines of text, piece by piece, however the pieces are cut. */
import { MAX_EXAMPLE_BYTES } from '../limits.ts';
import { type FileRecord, problemRecord, type RecordSplitter } from './records.ts';
import { decodeUtf8, NOT_UTF8 } from './text-decoder.ts';

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;

function join(pieces: readonly Uint8Array[]): Uint8Array {
  return pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces);
}

/**
 * Cuts a stream of bytes into lines at LF or CRLF. Lines are numbered from 1 as an editor shows them; blank ones are counted and left out.
 */
export class LineSplitter implements RecordSplitter {
  readonly #maxLineBytes: number;
  #pieces: Uint8Array[] = [];
  #pending = 0;
  #number = 0;

  constructor(maxLineBytes: number = MAX_EXAMPLE_BYTES) {
    this.#maxLineBytes = maxLineBytes;
  }

  push(piece: Uint8Array): FileRecord[] {
    const lines: FileRecord[] = [];
    let start = 0;
    for (let end = piece.indexOf(NEWLINE); end >= 0; end = piece.indexOf(NEWLINE, start)) {
      if (end === start && this.#pending === 0) {
        this.#number += 1;
        start = end + 1;
        continue;
      }
      this.#keep(piece.subarray(start, end));
      lines.push(...this.#take());
      start = end + 1;
    }
    this.#keep(piece.subarray(start));
    return lines;
  }

  /** The last line, where the file does not end with a newline. */
  end(): FileRecord[] {
    return this.#pending === 0 ? [] : this.#take();
  }

  /** What is beyond the limit is counted, not kept. */
  #keep(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    this.#pending += bytes.length;
    if (this.#pending <= this.#maxLineBytes) this.#pieces.push(bytes);
    else this.#pieces = [];
  }

  #take(): FileRecord[] {
    const length = this.#pending;
    let bytes = join(this.#pieces);
    this.#pieces = [];
    this.#pending = 0;
    this.#number += 1;
    const number = this.#number;
    if (length > this.#maxLineBytes) {
      const description = `expected at most ${this.#maxLineBytes} bytes, found ${length}; shorten the example`;
      return [problemRecord(number, description, 'LINE_TOO_LONG')];
    }
    if (bytes.at(-1) === CARRIAGE_RETURN) bytes = bytes.subarray(0, -1);
    const text = decodeUtf8(bytes);
    if (text === null) return [problemRecord(number, NOT_UTF8, 'NOT_UTF8')];
    return text.trim() === '' ? [] : [{ number, text }];
  }
}
