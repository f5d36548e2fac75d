/** Token ids to text while they arrive. A delta never ends inside a character. */
import { TextBytes } from './text-bytes.ts';
import type { DecodeOptions, Tokenizer } from './tokenizer.ts';
import { type Utf8Decoder, utf8Decoder } from './utf8-decoder.ts';

/** All deltas and the flush, joined, equal `tokenizer.decode` of all ids with the same options. */
export class DetokenizerStream {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder: Utf8Decoder;
  readonly #bytes: TextBytes;

  constructor(tokenizer: Tokenizer, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens === true;
    this.#decoder = utf8Decoder(tokenizer.textRules.invalidBytes);
    this.#bytes = new TextBytes(tokenizer, options.continuation === true);
  }

  /** The text that these ids complete; empty while a character is incomplete. */
  push(ids: ArrayLike<number>): string {
    const { controlTokenIds, textRules } = this.#tokenizer;
    let text = '';
    let parts: Uint8Array[] = [];
    for (let index = 0; index < ids.length; index++) {
      const id = ids[index] ?? -1;
      if (this.#skipSpecialTokens && controlTokenIds.has(id)) {
        if (textRules.invalidBytes === 'sequence') continue;
        // Sentencepiece joins no bytes across a control token.
        text += this.#decode(parts) + this.#decoder.flush();
        parts = [];
        continue;
      }
      parts.push(this.#bytes.next(id));
    }
    return text + this.#decode(parts);
  }

  /** What is left at the end: an incomplete character reads U+FFFD. */
  flush(): string {
    return this.#decoder.flush();
  }

  #decode(parts: readonly Uint8Array[]): string {
    const only = parts[0];
    if (only === undefined) return '';
    return this.#decoder.push(parts.length === 1 ? only : Buffer.concat(parts));
  }
}
