/** The bytes of one JSON list to its elements, piece by piece: the list itself is never in memory. */
import { MAX_EXAMPLE_BYTES } from '../limits.ts';
import { type FileRecord, problemRecord, type RecordSplitter } from './records.ts';
import { decodeUtf8, NOT_UTF8 } from './text-decoder.ts';

const QUOTE = 0x22;
const COMMA = 0x2c;
const OPEN_LIST = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

const isSpace = (byte: number): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;

/** `start`: before `[`. `element`: inside an element, or before its first byte. `ended`: after `]`. */
type State = 'start' | 'element' | 'ended';

/** Cuts a JSON list into the texts of its elements, numbered from 1. Only brackets, quotes and commas are looked at here. */
export class ArraySplitter implements RecordSplitter {
  readonly #maxElementBytes: number;
  #state: State = 'start';
  #pieces: Uint8Array[] = [];
  #pending = 0;
  #number = 1;
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** The element has a byte that is no space. */
  #begun = false;
  #trailing = false;

  constructor(maxElementBytes: number = MAX_EXAMPLE_BYTES) {
    this.#maxElementBytes = maxElementBytes;
  }

  push(piece: Uint8Array): FileRecord[] {
    const records: FileRecord[] = [];
    let start = 0;
    for (let index = 0; index < piece.length; index++) {
      const byte = piece[index] as number;
      if (this.#state === 'element') {
        if (!this.#endsElement(byte)) continue;
        this.#keep(piece.subarray(start, index));
        start = index + 1;
        this.#close(byte, records);
      } else {
        start = index + 1;
        if (isSpace(byte)) continue;
        if (this.#state === 'start' && byte === OPEN_LIST) this.#state = 'element';
        else this.#trailing = true;
      }
    }
    if (this.#state === 'element') this.#keep(piece.subarray(start));
    return records;
  }

  end(): FileRecord[] {
    if (this.#trailing) {
      return [
        problemRecord(null, 'expected nothing after the ] that ends the list, found more; remove it', 'NOT_JSON'),
      ];
    }
    if (this.#state === 'ended') return [];
    const description = `expected ] at the end, found the end of the file within example ${this.#number}; the file is cut off`;
    return [problemRecord(null, description, 'TRUNCATED')];
  }

  /** Whether this byte ends the element rather than belonging to it. */
  #endsElement(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inString = false;
      return false;
    }
    if (this.#depth === 0 && (byte === COMMA || byte === CLOSE_LIST)) return true;
    if (byte === QUOTE) this.#inString = true;
    else if (byte === OPEN_LIST || byte === OPEN_OBJECT) this.#depth += 1;
    else if ((byte === CLOSE_LIST || byte === CLOSE_OBJECT) && this.#depth > 0) this.#depth -= 1;
    if (!this.#begun && !isSpace(byte)) this.#begun = true;
    return false;
  }

  #close(byte: number, records: FileRecord[]): void {
    const empty = !this.#begun;
    // `[]` is an empty list, not a list with an empty element.
    if (!(empty && byte === CLOSE_LIST && this.#number === 1)) records.push(this.#take(empty));
    this.#pieces = [];
    this.#pending = 0;
    this.#begun = false;
    this.#number += 1;
    if (byte === CLOSE_LIST) this.#state = 'ended';
  }

  /** What is beyond the limit is counted, not kept. */
  #keep(bytes: Uint8Array): void {
    if (bytes.length === 0 || !this.#begun) return;
    this.#pending += bytes.length;
    if (this.#pending <= this.#maxElementBytes) this.#pieces.push(bytes);
    else this.#pieces = [];
  }

  #take(empty: boolean): FileRecord {
    const number = this.#number;
    if (empty) return problemRecord(number, 'expected an example between two commas, found nothing', 'NOT_JSON');
    if (this.#pending > this.#maxElementBytes) {
      const description = `expected at most ${this.#maxElementBytes} bytes, found ${this.#pending}; shorten the example`;
      return problemRecord(number, description, 'LINE_TOO_LONG');
    }
    const text = decodeUtf8(Buffer.concat(this.#pieces));
    return text === null ? problemRecord(number, NOT_UTF8, 'NOT_UTF8') : { number, text };
  }
}
