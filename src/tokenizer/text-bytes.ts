import { SPACE_SYMBOL } from './sentencepiece/model.ts';
import type { Tokenizer } from './tokenizer.ts';

const SPACE = 0x20;

/** What each id of a text adds to it, as bytes: without the space in front that is the tokenizer's own. */
export class TextBytes {
  readonly #tokenizer: Tokenizer;
  /** Whether the next piece may lose the space in front of it. */
  #stripSpace: boolean;

  /** @param continuation The ids continue earlier text: a space in front is kept. */
  constructor(tokenizer: Tokenizer, continuation: boolean) {
    this.#tokenizer = tokenizer;
    this.#stripSpace = tokenizer.textRules.leadingSpaces !== 'keep' && !continuation;
  }

  /** The bytes of the next id. */
  next(id: number): Uint8Array {
    const bytes = this.#tokenizer.idToBytes(id);
    return this.#stripSpace ? this.#withoutSpace(id, bytes) : bytes;
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
