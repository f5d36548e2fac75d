/** Where in a text each of its tokens stands. */
import { TextBytes } from './text-bytes.ts';
import type { Tokenizer } from './tokenizer.ts';
import type { InvalidBytes } from './utf8-decoder.ts';

/** A token's characters, in Unicode code points: the first, and the one behind the last. */
export interface TokenOffsets {
  readonly start: number;
  readonly end: number;
}

/** Bytes of the character that a first byte announces; 0: it announces none. */
function announced(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/** Whether a byte may stand at a place behind a first byte (Unicode 16, table 3-7). */
function continues(lead: number, place: number, byte: number): boolean {
  if (place > 1) return byte >= 0x80 && byte <= 0xbf;
  const lowest = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const highest = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  return byte >= lowest && byte <= highest;
}

/** Bytes of the character at a place, or of the U+FFFD that stands for what is none. */
function characterLength(bytes: Uint8Array, start: number, invalid: InvalidBytes): number {
  const lead = bytes[start] ?? 0;
  const length = announced(lead);
  let found = 1;
  while (found < length && continues(lead, found, bytes[start + found] ?? 0)) found++;
  return found === length || invalid === 'sequence' ? found : 1;
}

/** For each byte, the number of the character that it belongs to; one more entry has their count. */
function charactersOf(bytes: Uint8Array, invalid: InvalidBytes): Uint32Array {
  const characters = new Uint32Array(bytes.length + 1);
  let count = 0;
  for (let start = 0; start < bytes.length; count++) {
    const end = start + characterLength(bytes, start, invalid);
    characters.fill(count, start, end);
    start = end;
  }
  characters[bytes.length] = count;
  return characters;
}

/**
 * The offsets of each id in `tokenizer.decode(ids)`. Ids whose bytes make up one character together all have that character, as in Hugging Face's
 * tokenizers; an id that adds nothing stands before the next one's first character.
 */
export function tokenOffsets(tokenizer: Tokenizer, ids: ArrayLike<number>): TokenOffsets[] {
  const source = new TextBytes(tokenizer, false);
  const parts = Array.from(ids, (id) => source.next(id));
  const characters = charactersOf(Buffer.concat(parts), tokenizer.textRules.invalidBytes);
  let byte = 0;
  return parts.map(({ length }) => {
    const start = characters[byte] ?? 0;
    byte += length;
    return { start, end: length === 0 ? start : (characters[byte - 1] ?? 0) + 1 };
  });
}
