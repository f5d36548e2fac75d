/**
 * Sentencepiece tokenizers have no pre-tokenizer: a whole text is one word, which costs time that grows faster than its
 * length and defeats the word cache. But a merge can only join two characters that stand side by side in some merge's
 * result. Wherever a text has a pair of neighbours that stands in none, it may be cut without changing any id.
 * Measured with Llama 2's vocabulary: 500,000 characters of prose in 0.3 s instead of 8.4 s.
 */
import { type LibraryPreTokenizer, library } from './library.ts';

/** Every pair of neighbouring characters inside any merge's result. */
export function joinablePairs(merges: readonly (string | readonly string[])[]): Set<string> {
  const pairs = new Set<string>();
  for (const merge of merges) {
    const [left = '', right = ''] = typeof merge === 'string' ? merge.split(' ', 2) : merge;
    // Pairs inside `left` and `right` come from the merges that built them; only the joint is new.
    pairs.add(lastCharacter(left) + String.fromCodePoint(right.codePointAt(0) ?? 0));
  }
  return pairs;
}

function lastCharacter(text: string): string {
  const low = text.charCodeAt(text.length - 1);
  return low >= 0xdc00 && low <= 0xdfff ? text.slice(-2) : text.slice(-1);
}

/** Cuts what `before` leaves (a whole text without it) at every pair of neighbours that no merge joins. */
export class PairSplit extends library.SplitPreTokenizer {
  readonly #pairs: ReadonlySet<string>;
  readonly #before: LibraryPreTokenizer | null;

  constructor(pairs: ReadonlySet<string>, before: LibraryPreTokenizer | null) {
    super({ type: 'Split', pattern: { String: '' }, behavior: 'Isolated', invert: false });
    this.#pairs = pairs;
    this.#before = before;
  }

  override pre_tokenize_text(text: string, options?: object): string[] {
    const words = this.#before === null ? [text] : this.#before.pre_tokenize_text(text, options);
    return words.flatMap((word) => this.#cut(word));
  }

  #cut(text: string): string[] {
    const words: string[] = [];
    let start = 0;
    let position = 0;
    let previous = '';
    for (const character of text) {
      if (position > start && !this.#pairs.has(previous + character)) {
        words.push(text.slice(start, position));
        start = position;
      }
      previous = character;
      position += character.length;
    }
    if (position > start) words.push(text.slice(start));
    return words;
  }
}
