/** Bytes to text while they arrive. Text never ends inside a character. */

/**
 * What invalid UTF-8 reads as. `sequence`: one U+FFFD for the longest beginning of a character, as on the web.
 * `byte`: one U+FFFD for every byte, as sentencepiece has it.
 */
export type InvalidBytes = 'sequence' | 'byte';

export interface Utf8Decoder {
  /** The text that these bytes complete. */
  push(bytes: Uint8Array): string;
  /** What is left at the end: an incomplete character is invalid. */
  flush(): string;
}

export function utf8Decoder(invalid: InvalidBytes): Utf8Decoder {
  return invalid === 'byte' ? new BytewiseDecoder() : new SequenceDecoder();
}

class SequenceDecoder implements Utf8Decoder {
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });

  push(bytes: Uint8Array): string {
    return this.#decoder.decode(bytes, { stream: true });
  }

  flush(): string {
    return this.#decoder.decode();
  }
}

class BytewiseDecoder implements Utf8Decoder {
  #held: Uint8Array = new Uint8Array(0);

  push(bytes: Uint8Array): string {
    const all = this.#held.length === 0 ? bytes : Buffer.concat([this.#held, bytes]);
    const end = all.length - incompleteLength(all);
    this.#held = all.slice(end);
    return decodeBytewise(all.subarray(0, end), () => '\ufffd').text;
  }

  flush(): string {
    const { text } = decodeBytewise(this.#held, () => '\ufffd');
    this.#held = new Uint8Array(0);
    return text;
  }
}

/** Bytes of the character that a first byte announces. */
const lengthFrom = (lead: number): number => (lead < 0xc0 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2);

/** Bytes at the end that may be the beginning of a character. */
function incompleteLength(bytes: Uint8Array): number {
  for (let length = 1; length <= Math.min(3, bytes.length); length++) {
    const byte = bytes[bytes.length - length] ?? 0;
    if (byte < 0x80 || byte >= 0xc0) return lengthFrom(byte) > length ? length : 0;
  }
  return 0;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Valid characters as they are, every other byte as `show` has it. */
export function decodeBytewise(bytes: Uint8Array, show: (byte: number) => string): { text: string; valid: boolean } {
  try {
    return { text: strict.decode(bytes), valid: true };
  } catch {
    // Not UTF-8 as a whole: character by character.
  }
  let text = '';
  for (let start = 0; start < bytes.length; ) {
    const lead = bytes[start] ?? 0;
    const end = start + lengthFrom(lead);
    try {
      text += strict.decode(bytes.subarray(start, end));
      start = end;
    } catch {
      text += show(lead);
      start += 1;
    }
  }
  return { text, valid: false };
}
