/** Finds control tokens in a text. Text is never searched for them unless the caller asks. */

import type { ControlTokenMatch } from './tokenizer.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

/** A control token's id, or a run of ordinary text. */
export type TextSection = { readonly id: number } | { readonly text: string };

const escapePattern = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');

export class ControlSplitter {
  readonly #tokens: ReadonlyMap<string, AddedTokenJson>;
  readonly #contents: readonly string[];
  readonly #patterns = new Map<string, RegExp>();

  constructor(tokens: readonly AddedTokenJson[]) {
    this.#tokens = new Map(tokens.filter((token) => token.content.length > 0).map((token) => [token.content, token]));
    // Longest first: of tokens that start at one place the longest counts, as in Hugging Face's trie.
    this.#contents = [...this.#tokens.keys()].sort((a, b) => b.length - a.length);
  }

  #pattern(literalMark: string): RegExp {
    let pattern = this.#patterns.get(literalMark);
    if (!pattern) {
      // A mark inside a token's text keeps it from matching; a token of one character has no inside.
      const guard = literalMark === '' ? '' : `(?<!${escapePattern(literalMark)})`;
      const alternatives = this.#contents.map(
        (content) => ([...content].length === 1 ? guard : '') + escapePattern(content),
      );
      pattern = new RegExp(alternatives.join('|'), 'gu');
      this.#patterns.set(literalMark, pattern);
    }
    return pattern;
  }

  /** Every control token of a text, from left to right. */
  find(text: string, literalMark = ''): ControlTokenMatch[] {
    if (this.#tokens.size === 0) return [];
    const matches: ControlTokenMatch[] = [];
    for (const match of text.matchAll(this.#pattern(literalMark))) {
      const token = this.#tokens.get(match[0]);
      if (token) matches.push({ id: token.id, start: match.index, end: match.index + match[0].length });
    }
    return matches;
  }

  /** Cuts at control tokens, honouring their `lstrip` and `rstrip`. `literalMark`s are removed from the text runs. */
  split(text: string, literalMark = ''): TextSection[] {
    const sections: TextSection[] = [];
    let start = 0;
    let stripNext = false;
    const addText = (end: number, stripEnd: boolean): void => {
      let run = text.slice(start, end);
      if (literalMark !== '') run = run.replaceAll(literalMark, '');
      if (stripNext) run = run.trimStart();
      if (stripEnd) run = run.trimEnd();
      if (run.length > 0) sections.push({ text: run });
    };
    for (const match of this.find(text, literalMark)) {
      const token = this.#tokens.get(text.slice(match.start, match.end));
      addText(match.start, token?.lstrip === true);
      sections.push({ id: match.id });
      start = match.end;
      stripNext = token?.rstrip === true;
    }
    addText(text.length, false);
    return sections;
  }
}
