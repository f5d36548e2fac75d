/** What each token adds to a text, as bytes: the one ground of `decode`, streams and previews. */
import { TokenizerError } from './errors.ts';
import { type ComponentJson, flattenComponent } from './tokenizer-json.ts';

/** GPT-2's printable stand-ins for the 256 bytes, character to byte. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) map.set(String.fromCharCode(printable(byte) ? byte : next++), byte);
  return map;
})();

const encoder = new TextEncoder();
const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

export interface PieceDecoder {
  /** Bytes of an ordinary (not added) token. */
  bytes(piece: string): Uint8Array;
  readonly stripsLeadingSpace: boolean;
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

function sentencePieceBytes(piece: string): Uint8Array {
  const hex = BYTE_TOKEN.exec(piece)?.[1];
  if (hex !== undefined) return Uint8Array.of(Number.parseInt(hex, 16));
  return encoder.encode(piece.replaceAll('▁', ' '));
}

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
  if (only('ByteLevel')) return { bytes: byteLevelBytes, stripsLeadingSpace: false };
  if (only('Metaspace', 'ByteFallback', 'Fuse')) {
    const scheme = members.find((member) => member.type === 'Metaspace')?.prepend_scheme;
    return { bytes: sentencePieceBytes, stripsLeadingSpace: scheme !== 'never' };
  }
  if (only('Replace', 'ByteFallback', 'Fuse', 'Strip')) {
    return { bytes: sentencePieceBytes, stripsLeadingSpace: types.has('Strip') };
  }
  throw new TokenizerError(
    'TOKENIZER_UNSUPPORTED',
    `decoder ${[...types].join(' + ') || 'none'} is not supported; supported are ByteLevel and sentencepiece's (Replace, ByteFallback, Fuse, Strip; Metaspace)`,
  );
}
