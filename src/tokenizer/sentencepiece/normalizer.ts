/** Text to the form that pieces are found in: rules, spaces as ▁, the space in front. As sentencepiece's `Normalizer`. */
import type { Replacement } from './charsmap.ts';
import { type NormalizerSpec, SPACE_SYMBOL } from './model.ts';
import { UnitTrie } from './unit-trie.ts';

const SPACE = 0x20;

export class Normalizer {
  readonly #spec: NormalizerSpec;
  readonly #userDefined: UnitTrie;
  readonly #space: string;
  /** 1 for every UTF-16 unit that a rule, a user-defined piece or a space may begin with; the others stay as they are. */
  readonly #special = new Uint8Array(0x10000);

  /** @param userDefined pieces that no rule changes */
  constructor(spec: NormalizerSpec, userDefined: readonly string[]) {
    this.#spec = spec;
    this.#space = spec.escapeWhitespaces ? SPACE_SYMBOL : ' ';
    // Without rules and with all spaces kept a piece reads as the rest does.
    const guarded = spec.charsmap !== null || spec.removeExtraWhitespaces ? userDefined : [];
    this.#userDefined = new UnitTrie(guarded.map((piece) => [piece, 0]));
    this.#special[SPACE] = 1;
    for (const piece of guarded) this.#special[piece.charCodeAt(0)] = 1;
    spec.charsmap?.markFirstUnits(this.#special);
  }

  /**
   * @param continues the text stands behind other text: no space is put in front, and those it starts with are kept
   * @returns empty where nothing is left
   */
  normalize(text: string, continues: boolean): string {
    const { addDummyPrefix, removeExtraWhitespaces } = this.#spec;
    const strip = removeExtraWhitespaces && !continues;
    let at = strip ? this.#behindSpaces(text) : 0;
    if (at >= text.length) return '';
    let normalized = addDummyPrefix && !continues ? this.#space : '';
    let spaceBefore = strip;
    while (at < text.length) {
      if (this.#special[text.charCodeAt(at)] === 0) {
        const start = at++;
        while (at < text.length && this.#special[text.charCodeAt(at)] === 0) at++;
        normalized += text.slice(start, at);
        spaceBefore = false;
        continue;
      }
      const step = this.#step(text, at);
      at = step.end;
      const added = spaceBefore ? withoutLeadingSpaces(step.text) : step.text;
      if (added.length > 0) {
        normalized += this.#spec.escapeWhitespaces ? added.replaceAll(' ', SPACE_SYMBOL) : added;
        spaceBefore = removeExtraWhitespaces && added.endsWith(' ');
      }
    }
    return removeExtraWhitespaces ? withoutTrailing(normalized, this.#space) : normalized;
  }

  #behindSpaces(text: string): number {
    let at = 0;
    while (at < text.length) {
      const step = this.#step(text, at);
      if (step.text !== ' ') break;
      at = step.end;
    }
    return at;
  }

  #step(text: string, at: number): Replacement {
    const piece = this.#userDefined.longest(text, at);
    if (piece) return { text: text.slice(at, piece.end), end: piece.end };
    const rule = this.#spec.charsmap?.longest(text, at);
    if (rule) return rule;
    const character = String.fromCodePoint(text.codePointAt(at) ?? 0);
    return { text: character, end: at + character.length };
  }
}

function withoutLeadingSpaces(text: string): string {
  let start = 0;
  while (text.charCodeAt(start) === SPACE) start++;
  return text.slice(start);
}

function withoutTrailing(text: string, space: string): string {
  let end = text.length;
  while (end > 0 && text[end - 1] === space) end--;
  return text.slice(0, end);
}
