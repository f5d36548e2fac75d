import { DetokenizerStream } from '../tokenizer/detokenizer-stream.ts';
import { StopStringMatcher } from '../tokenizer/stop-strings.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';

export interface AnswerTextOptions {
  readonly stopStrings: readonly string[];
  /** The answer goes on in the middle of a text: a tokenizer's own first space is kept. */
  readonly continuation: boolean;
  /** Whitespace that the template puts before answers, cut from the front. */
  readonly answerPrefix: string;
}

/** Bytes that the head of a UTF-8 sequence announces in all; 1 for anything that starts none. */
function announcedLength(head: number): number {
  if (head >= 0xf0 && head <= 0xf4) return 4;
  if (head >= 0xe0 && head < 0xf0) return 3;
  return head >= 0xc2 && head < 0xe0 ? 2 : 1;
}

/** The unfinished character at the end of some bytes; empty where there is none. At most 3 bytes. */
export function unfinishedCharacter(bytes: Uint8Array): Uint8Array {
  for (let length = 1; length <= Math.min(3, bytes.length); length++) {
    const byte = bytes[bytes.length - length] ?? 0;
    // 10xxxxxx goes on; anything else starts a character.
    if ((byte & 0xc0) === 0x80) continue;
    return announcedLength(byte) > length ? bytes.slice(bytes.length - length) : new Uint8Array();
  }
  return new Uint8Array();
}

/** Ids to the text of an answer as it arrives: whole characters only, no part of a stop string, no prefix of the template's. */
export class AnswerText {
  readonly #tokenizer: Tokenizer;
  readonly #detokenizer: DetokenizerStream;
  readonly #stops: StopStringMatcher;
  #prefix: string;
  /** The last bytes, as many as an unfinished character may have. */
  #tail = new Uint8Array();
  #matched: string | null = null;

  constructor(tokenizer: Tokenizer, options: AnswerTextOptions) {
    this.#tokenizer = tokenizer;
    const { continuation } = options;
    this.#detokenizer = new DetokenizerStream(tokenizer, { skipSpecialTokens: true, continuation });
    this.#stops = new StopStringMatcher(options.stopStrings);
    this.#prefix = options.answerPrefix;
  }

  /** The stop string that ended the answer; null while none did. */
  get matchedStop(): string | null {
    return this.#matched;
  }

  /** The text that may be given out now. */
  push(ids: ArrayLike<number>): string {
    for (const id of Array.from(ids)) {
      if (this.#tokenizer.controlTokenIds.has(id)) continue;
      this.#tail = new Uint8Array([...this.#tail, ...this.#tokenizer.idToBytes(id)]).slice(-3);
    }
    const { text, matched } = this.#stops.push(this.#withoutPrefix(this.#detokenizer.push(ids)));
    this.#matched = matched;
    return text;
  }

  /** What was held back as the possible start of a stop string. */
  finish(): string {
    return this.#matched === null ? this.#stops.flush() : '';
  }

  /** Bytes of a character that the end cut off; `push` never gave them out. */
  trailingBytes(): Uint8Array {
    return this.#matched === null ? unfinishedCharacter(this.#tail) : new Uint8Array();
  }

  #withoutPrefix(text: string): string {
    let cut = 0;
    while (cut < text.length && this.#prefix !== '') {
      if (text[cut] !== this.#prefix[0]) this.#prefix = '';
      else {
        this.#prefix = this.#prefix.slice(1);
        cut += 1;
      }
    }
    return text.slice(cut);
  }
}
