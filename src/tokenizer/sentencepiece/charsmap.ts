/**
 * `NormalizerSpec.precompiled_charsmap`: normalization rules, as a little-endian length, a double-array trie of that many
 * bytes (Darts-clone's units) and the NUL-terminated replacements that the trie's values point to. The trie is over
 * UTF-8 bytes; equal ends are shared, so that 225,000 rules take 200 KB.
 *
 * A unit's bits: 0-7 label, 8 whether a value hangs below, 9 and 10-30 the offset of the children (shifted by 8 where bit
 * 9 is set); a value's unit has bit 31 set, which no label matches.
 */
import { TokenizerError } from '../errors.ts';

/** What takes the place of a text from some index to `end`. */
export interface Replacement {
  readonly text: string;
  readonly end: number;
}

const LABEL_MASK = 0x800000ff;
const VALUE_MASK = 0x7fffffff;
const HAS_VALUE = 0x100;
/** Darts-clone pads its arrays to whole blocks of 256 units. */
const BLOCK_BYTES = 1024;
/** Real rules have at most some 20. */
const MAX_RULE_BYTES = 512;
const UNSEEN = 0;
const OPEN = 1;
const DONE = 2;

const offsetOf = (unit: number): number => ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0;

function corrupt(message: string): never {
  throw new TokenizerError('TOKENIZER_CORRUPT', `precompiled_charsmap: ${message}`);
}

export class Charsmap {
  /** What it was read from. */
  readonly blob: Uint8Array;
  readonly #units: Uint32Array;
  /** Replacements by where they start; every one that the trie points to. */
  readonly #replacements = new Map<number, string>();

  /** @throws TokenizerError where the blob is cut short, or the trie leads out of bounds, in circles or to no text */
  constructor(blob: Uint8Array) {
    this.blob = blob;
    const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
    const trieBytes = blob.length < 4 ? 0 : view.getUint32(0, true);
    if (trieBytes === 0 || trieBytes % BLOCK_BYTES !== 0 || 4 + trieBytes >= blob.length) {
      corrupt(
        `a trie of ${trieBytes} bytes in ${blob.length}; expected whole blocks of ${BLOCK_BYTES} bytes and replacements behind them`,
      );
    }
    this.#units = Uint32Array.from({ length: trieBytes / 4 }, (_, index) => view.getUint32(4 + 4 * index, true));
    this.#check(0, 0, new Uint8Array(this.#units.length), blob.subarray(4 + trieBytes));
  }

  /** What the longest rule at a place of a well-formed text makes of it; null where none applies. */
  longest(text: string, start: number): Replacement | null {
    return this.#find(text, start, false);
  }

  /** What the shortest rule that a well-formed text begins with makes of its beginning; null where none applies. */
  shortest(text: string): string | null {
    return this.#find(text, 0, true)?.text ?? null;
  }

  #find(text: string, start: number, takesFirst: boolean): Replacement | null {
    const units = this.#units;
    let base = offsetOf(units[0] as number);
    let value = -1;
    let end = start;
    for (let at = start; at < text.length; ) {
      const codePoint = text.codePointAt(at) as number;
      const length = codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;
      let unit = 0;
      for (let index = 0; index < length; index++) {
        const byte = utf8Byte(codePoint, length, index);
        const position = base ^ byte;
        unit = units[position] ?? 0;
        if (byte === 0 || (unit & LABEL_MASK) !== byte) return this.#replacement(value, end);
        base = position ^ offsetOf(unit);
      }
      at += codePoint < 0x10000 ? 1 : 2;
      if ((unit & HAS_VALUE) === 0) continue;
      value = (units[base] as number) & VALUE_MASK;
      end = at;
      if (takesFirst) break;
    }
    return this.#replacement(value, end);
  }

  /** Sets 1 for every UTF-16 unit that a rule may begin with. */
  markFirstUnits(marks: Uint8Array): void {
    for (let unit = 1; unit < 0x10000; unit++) {
      // Of a character beyond the 16-bit range only the high surrogate stands first; all four bytes are not looked at.
      const isHigh = unit >= 0xd800 && unit < 0xdc00;
      const codePoint = isHigh ? 0x10000 + (unit - 0xd800) * 0x400 : unit;
      const length = codePoint < 0x80 ? 1 : codePoint < 0x800 ? 2 : codePoint < 0x10000 ? 3 : 4;
      if (this.#leadsOn(codePoint, length, isHigh ? 2 : length)) marks[unit] = 1;
    }
  }

  /** Whether some rule begins with the first `count` bytes of a character. */
  #leadsOn(codePoint: number, length: number, count: number): boolean {
    let base = offsetOf(this.#units[0] as number);
    for (let index = 0; index < count; index++) {
      const byte = utf8Byte(codePoint, length, index);
      const position = base ^ byte;
      const unit = this.#units[position] ?? 0;
      if ((unit & LABEL_MASK) !== byte) return false;
      base = position ^ offsetOf(unit);
    }
    return true;
  }

  #replacement(value: number, end: number): Replacement | null {
    return value < 0 ? null : { text: this.#replacements.get(value) ?? '', end };
  }

  /** Follows every unit that can be reached once: no unit may lead to itself, and every value to a replacement. */
  #check(index: number, depth: number, states: Uint8Array, texts: Uint8Array): void {
    const unit = this.#units[index] as number;
    if (depth > MAX_RULE_BYTES) corrupt(`a rule is longer than ${MAX_RULE_BYTES} bytes`);
    states[index] = OPEN;
    const base = index ^ offsetOf(unit);
    if (index !== 0 && (unit & HAS_VALUE) !== 0) this.#readReplacement(base, texts);
    // The label 0 is the value's own.
    for (let label = 1; label < 256; label++) {
      const child = base ^ label;
      const childUnit = this.#units[child];
      if (childUnit === undefined || (childUnit & LABEL_MASK) !== label) continue;
      if (states[child] === OPEN) corrupt(`the trie leads in circles at unit ${child}`);
      if (states[child] === UNSEEN) this.#check(child, depth + 1, states, texts);
    }
    states[index] = DONE;
  }

  #readReplacement(position: number, texts: Uint8Array): void {
    const unit = this.#units[position];
    if (unit === undefined) corrupt(`the trie points to unit ${position} of ${this.#units.length}`);
    const start = unit & VALUE_MASK;
    const end = texts.indexOf(0, start);
    if (start >= texts.length || end < 0) {
      corrupt(`a rule points to byte ${start} of ${texts.length} bytes of replacements`);
    }
    if (this.#replacements.has(start)) return;
    try {
      const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(texts.subarray(start, end));
      this.#replacements.set(start, text);
    } catch {
      corrupt(`the replacement at byte ${start} is not UTF-8`);
    }
  }
}

/** One of the `length` bytes of a character. */
function utf8Byte(codePoint: number, length: number, index: number): number {
  const bits = codePoint >>> (6 * (length - 1 - index));
  if (index > 0) return 0x80 | (bits & 0x3f);
  return length === 1 ? codePoint : ((0xff00 >> length) & 0xff) | bits;
}
