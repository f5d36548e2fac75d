/**
 * A pre-tokenizer's regular expression for the native encoders: the same language, written out. What is not known to mean the same there is
 * refused, and the JavaScript encoder does the work.
 */
import type { NativeSplitPattern } from './encoders.ts';
import { complement, type Ranges, unicodeRanges } from './unicode-ranges.ts';

/** How patterns of GPT-2's kind end, as the library writes it: white space leaves its last character to the word behind it. */
const SPACE_TAIL = '\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+';

const QUANTIFIER = /(?:[*+?]|\{\d+(?:,\d*)?\})\??/y;
const GROUP = /\((?:\?:)?(?!\?)/y;
const PROPERTY = /\\([pP])\{([A-Za-z_=]+)\}/y;
const CODE = /\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]+)\})/y;
const ESCAPED = /\\([rntfv]|[^A-Za-z0-9\s])/uy;
const LITERAL = /[^\\^$.*+?()[\]{}|/]/uy;
const CLASS_LITERAL = /[^\\[\]]/uy;

const CONTROL_ESCAPES: Readonly<Record<string, string>> = { r: '\r', n: '\n', t: '\t', f: '\f', v: '\v' };

const written = (code: number): string => `\\x{${code.toString(16)}}`;

const classOf = (ranges: Ranges, negated = false): string =>
  `[${negated ? '^' : ''}${ranges.map(([first, last]) => `${written(first)}-${written(last)}`).join('')}]`;

class Unknown extends Error {}

class Translator {
  readonly #source: string;
  #at = 0;

  constructor(source: string) {
    this.#source = source;
  }

  translate(): string {
    let translated = '';
    while (this.#at < this.#source.length) translated += this.#next();
    return translated;
  }

  #take(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#source);
    if (match) this.#at += match[0].length;
    return match;
  }

  #next(): string {
    const character = this.#source[this.#at];
    if (character === '[') return this.#class();
    if (character === '|' || character === ')') {
      this.#at += 1;
      return character;
    }
    if (this.#take(GROUP)) return '(?:';
    const quantifier = this.#take(QUANTIFIER);
    if (quantifier) return quantifier[0];
    const property = this.#property();
    if (property) return classOf(property);
    return written(this.#code() ?? this.#literal(LITERAL));
  }

  #property(): Ranges | null {
    const match = this.#take(PROPERTY);
    if (!match) return null;
    const ranges = unicodeRanges(match[2] ?? '');
    return match[1] === 'P' ? complement(ranges) : ranges;
  }

  /** A character that is escaped. */
  #code(): number | null {
    const code = this.#take(CODE);
    if (code) return Number.parseInt(code[1] ?? code[2] ?? code[3] ?? '', 16);
    const escaped = this.#take(ESCAPED)?.[1];
    return escaped === undefined ? null : ((CONTROL_ESCAPES[escaped] ?? escaped).codePointAt(0) ?? 0);
  }

  #literal(pattern: RegExp): number {
    const literal = this.#take(pattern)?.[0].codePointAt(0);
    if (literal === undefined) throw new Unknown();
    return literal;
  }

  #class(): string {
    this.#at += 1;
    const negated = this.#source[this.#at] === '^';
    if (negated) this.#at += 1;
    const ranges: (readonly [number, number])[] = [];
    while (this.#source[this.#at] !== ']') {
      const property = this.#property();
      if (property) {
        ranges.push(...property);
        continue;
      }
      const first = this.#code() ?? this.#literal(CLASS_LITERAL);
      const isRange = this.#source[this.#at] === '-' && this.#source[this.#at + 1] !== ']';
      if (isRange) this.#at += 1;
      const last = isRange ? (this.#code() ?? this.#literal(CLASS_LITERAL)) : first;
      ranges.push([first, last]);
    }
    this.#at += 1;
    if (ranges.length === 0) throw new Unknown();
    return classOf(ranges, negated);
  }
}

/**
 * @param source A regular expression with the flag `u`, as the library compiles it.
 * @returns Null where it uses what is not known to mean the same.
 */
export function nativeSplitPattern(source: string): NativeSplitPattern | null {
  const hasTail = source === SPACE_TAIL || source.endsWith(`|${SPACE_TAIL}`);
  const head = hasTail ? source.slice(0, source.length - SPACE_TAIL.length).replace(/\|$/, '') : source;
  try {
    const space = hasTail ? classOf(unicodeRanges('White_Space')) : undefined;
    return { head: new Translator(head).translate(), space };
  } catch (error) {
    if (error instanceof Unknown || error instanceof SyntaxError) return null;
    throw error;
  }
}
