/** Token ids to text while they arrive. A delta never ends inside a character. */
import type { DecodeOptions, Tokenizer } from './tokenizer.ts';

/** All deltas and the flush, joined, equal `tokenizer.decode` of all ids with the same options. */
export class DetokenizerStream {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #stripSpace: boolean;

  constructor(tokenizer: Tokenizer, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens === true;
    this.#stripSpace = tokenizer.stripsLeadingSpace && options.continuation !== true;
  }

  /** The text that these ids complete; empty while a character is incomplete. */
  push(ids: ArrayLike<number>): string {
    let delta = '';
    for (const id of Array.from(ids)) {
      if (this.#skipSpecialTokens && this.#tokenizer.controlTokenIds.has(id)) continue;
      delta += this.#decoder.decode(this.#tokenizer.idToBytes(id), { stream: true });
    }
    return this.#emit(delta);
  }

  /** What is left at the end: an incomplete character reads U+FFFD. */
  flush(): string {
    return this.#emit(this.#decoder.decode());
  }

  #emit(text: string): string {
    if (!this.#stripSpace || text.length === 0) return text;
    this.#stripSpace = false;
    return text.startsWith(' ') ? text.slice(1) : text;
  }
}
