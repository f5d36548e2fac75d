/** Token ids to text while they arrive. A delta never ends inside a character. */
import { SPACE_SYMBOL } from './sentencepiece/model.ts';
import type { DecodeOptions, Tokenizer } from './tokenizer.ts';
import { type Utf8Decoder, utf8Decoder } from './utf8-decoder.ts';

const SPACE = 0x20;

/** All deltas and the flush, joined, equal `tokenizer.decode` of all ids with the same options. */
export class DetokenizerStream {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder: Utf8Decoder;
  /** Whether the next piece may lose the space in front of it. */
  #stripSpace: boolean;

  constructor(tokenizer: Tokenizer, options: DecodeOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens === true;
    this.#decoder = utf8Decoder(tokenizer.textRules.invalidBytes);
    this.#stripSpace = tokenizer.textRules.leadingSpaces !== 'keep' && options.continuation !== true;
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
      const bytes = this.#tokenizer.idToBytes(id);
      parts.push(this.#stripSpace ? this.#withoutSpace(id, bytes) : bytes);
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

  #withoutSpace(id: number, bytes: Uint8Array): Uint8Array {
    if (bytes.length === 0) return bytes;
    const rule = this.#tokenizer.textRules.leadingSpaces;
    // Sentencepiece's own space is ▁, and no byte token.
    const starts = bytes[0] === SPACE && (rule === 'text' || this.#tokenizer.idToPiece(id)?.startsWith(SPACE_SYMBOL));
    const rest = starts ? bytes.subarray(1) : bytes;
    if (rule !== 'pieces' || rest.length > 0) this.#stripSpace = false;
    return rest;
  }
}
