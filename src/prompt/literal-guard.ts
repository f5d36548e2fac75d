/**
 * Keeps message text from becoming control tokens inside a rendered template. A mark, a character that occurs nowhere
 * in the messages, is put into message text where a control token is or could come to be; the tokenizer finds no
 * control token across a mark and removes marks before encoding. Templates may trim, split and test the text as ever.
 */
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { PromptError } from './errors.ts';

/** Unicode noncharacters: valid in strings, never in real text. */
const MARKS = Array.from({ length: 32 }, (_, index) => String.fromCharCode(0xfdd0 + index));

const ANY_MARK = /[\ufdd0-\ufdef]/;

const escapePattern = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');

export class LiteralGuard {
  readonly #contents: readonly string[];
  /** Proper beginnings and ends of control tokens. */
  readonly #heads = new Set<string>();
  readonly #tails = new Set<string>();
  readonly #longest: number;
  /** UTF-16 units that tails start with. */
  readonly #tailUnits: ReadonlySet<string>;
  /** A character that a control token starts with; null: there is no control token. */
  readonly #first: RegExp | null;
  /** The same, for finding all. */
  readonly #firsts: RegExp | null;
  readonly #occurrence: RegExp | null;

  constructor(tokenizer: Tokenizer) {
    const contents = [...tokenizer.controlTokenIds]
      .map((id) => tokenizer.idToPiece(id) ?? '')
      .filter((text) => text !== '');
    this.#contents = contents;
    for (const content of contents) {
      for (let cut = 1; cut < content.length; cut++) {
        this.#heads.add(content.slice(0, cut));
        this.#tails.add(content.slice(cut));
      }
    }
    this.#longest = Math.max(0, ...contents.map((content) => content.length));
    this.#tailUnits = new Set([...this.#tails].map((tail) => tail.charAt(0)));
    const firsts = new Set(contents.map((content) => String.fromCodePoint(content.codePointAt(0) ?? 0)));
    const firstClass = `[${[...firsts].map(escapePattern).join('')}]`;
    this.#first = contents.length === 0 ? null : new RegExp(firstClass, 'u');
    this.#firsts = contents.length === 0 ? null : new RegExp(firstClass, 'gu');
    // A lookahead finds overlapping occurrences too.
    this.#occurrence = contents.length === 0 ? null : new RegExp(`(?=${contents.map(escapePattern).join('|')})`, 'gu');
  }

  /** Characters that occur in none of the texts, as many as asked for. */
  marks(count: number, texts: Iterable<string>): string[] {
    const used = [...texts].filter((text) => ANY_MARK.test(text)).join('');
    const free = MARKS.filter((mark) => !used.includes(mark)).slice(0, count);
    if (free.length < count) {
      throw new PromptError(
        'INVALID_MESSAGES',
        'the messages use all 32 Unicode noncharacters U+FDD0 to U+FDEF; remove some',
      );
    }
    return free;
  }

  /** Whether a control token could start in this text at all. */
  isSuspicious(text: string): boolean {
    return this.#first?.test(text) ?? false;
  }

  /** Marks what is, or at the text's ends could complete to, a control token; leaves everything else testable. */
  guard(text: string, mark: string): string {
    if (this.#occurrence === null || text.length === 0) return text;
    const positions = new Set<number>();
    const mayStart = this.isSuspicious(text);
    if (mayStart) {
      for (const match of text.matchAll(this.#occurrence)) positions.add(this.#breakInside(text, match.index));
    }
    const start = text.length - text.trimStart().length;
    for (const [from, to] of [
      [0, text.length],
      [start, text.trimEnd().length],
    ] as const) {
      const body = text.slice(from, to);
      if (body.length === 0) continue;
      const mayEnd = this.#tailUnits.has(body.charAt(0));
      for (let length = 1; (mayStart || mayEnd) && length < Math.min(this.#longest, body.length + 1); length++) {
        if (mayStart && this.#heads.has(body.slice(-length))) positions.add(this.#breakInside(text, to - length));
        if (mayEnd && this.#tails.has(body.slice(0, length))) positions.add(from);
      }
      if (body.length < this.#longest && this.#contents.some((content) => content.includes(body, 1)))
        positions.add(from);
    }
    return insert(text, positions, mark);
  }

  /** Where a mark breaks the control token that starts at `index`: behind its first character. */
  #breakInside(text: string, index: number): number {
    const first = String.fromCodePoint(text.codePointAt(index) ?? 0);
    // A control token of one character has no inside; the tokenizer minds a mark in front of it.
    return this.#contents.includes(first) ? index : index + first.length;
  }

  /** Marks behind every character that could start a control token, and at the text's start: safe whatever a template does. */
  guardStrictly(text: string, mark: string): string {
    const positions = new Set<number>();
    const start = text.length - text.trimStart().length;
    if (start < text.length) positions.add(start);
    if (this.#firsts !== null) {
      for (const { index } of text.matchAll(this.#firsts)) positions.add(this.#breakInside(text, index));
    }
    return insert(text, positions, mark);
  }
}

function insert(text: string, positions: ReadonlySet<number>, mark: string): string {
  if (positions.size === 0 || text.length === 0) return text;
  let marked = '';
  let at = 0;
  for (const position of [...positions].sort((a, b) => a - b)) {
    marked += text.slice(at, position) + mark;
    at = position;
  }
  return marked + text.slice(at);
}
