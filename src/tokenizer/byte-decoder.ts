/** What each token adds to a text, as bytes: the one ground of `decode`, streams and previews. */
import { TokenizerError } from './errors.ts';
import { byteOfPiece, SPACE_SYMBOL } from './sentencepiece/model.ts';
import type { TextRules } from './tokenizer.ts';
import { type ComponentJson, flattenComponent } from './tokenizer-json.ts';

/** GPT-2's printable stand-ins for the 256 bytes, character to byte. */
export const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCharCode(printable(byte) ? byte : next++), byte);
  return map;
})();

const encoder = new TextEncoder();

export interface PieceDecoder {
  /** Bytes of an ordinary (not added) token. */
  bytes(piece: string): Uint8Array;
  readonly textRules: TextRules;
}

function byteLevelBytes(piece: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of piece) {
    const byte = BYTE_OF_CHARACTER.get(character);
    // Characters outside the alphabet occur only in tokens that no text produces; they are shown as they are.
    if (byte === undefined) bytes.push(...encoder.encode(character));
    else bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** `▁` as a space. */
export const spacedBytes = (piece: string): Uint8Array => encoder.encode(piece.replaceAll(SPACE_SYMBOL, ' '));

/** A byte piece's byte; `▁` as a space. */
export function sentencePieceBytes(piece: string): Uint8Array {
  const byte = byteOfPiece(piece);
  return byte === null ? spacedBytes(piece) : Uint8Array.of(byte);
}

const rules = (strips: boolean): TextRules => ({ leadingSpaces: strips ? 'text' : 'keep', invalidBytes: 'sequence' });

/**
 * The decoder of a `tokenizer.json`: ByteLevel, or sentencepiece's in either of the two ways it is written
 * (Replace, ByteFallback, Fuse, Strip; or Metaspace).
 *
 * @throws TokenizerError for every other decoder
 */
export function pieceDecoder(component: ComponentJson | null): PieceDecoder {
  const members = flattenComponent(component, 'decoders');
  const types = new Set(members.map((member) => member.type));
  const only = (...allowed: string[]): boolean =>
    members.length > 0 && members.every((member) => allowed.includes(member.type));
  if (only('ByteLevel')) return { bytes: byteLevelBytes, textRules: rules(false) };
  if (only('Metaspace', 'ByteFallback', 'Fuse')) {
    const scheme = members.find((member) => member.type === 'Metaspace')?.prepend_scheme;
    return { bytes: sentencePieceBytes, textRules: rules(scheme !== 'never') };
  }
  if (only('Replace', 'ByteFallback', 'Fuse', 'Strip')) {
    return { bytes: sentencePieceBytes, textRules: rules(types.has('Strip')) };
  }
  throw new TokenizerError(
    'TOKENIZER_UNSUPPORTED',
    `decoder ${[...types].join(' + ') || 'none'} is not supported; supported are ByteLevel and sentencepiece's (Replace, ByteFallback, Fuse, Strip; Metaspace)`,
  );
}
