/** What a sentencepiece model says: the fields of `sentencepiece_model.proto` that decide ids and text. */

import type { Charsmap } from './charsmap.ts';

/** `ModelProto.SentencePiece.Type`; GGUF's `tokenizer.ggml.token_type` has the same numbers. */
export const PieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** `NormalizerSpec`. */
export interface NormalizerSpec {
  /** `precompiled_charsmap`; null for `identity`. */
  readonly charsmap: Charsmap | null;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
}

export interface SentencePieceModel {
  readonly algorithm: 'unigram' | 'bpe';
  /** Texts by id. */
  readonly pieces: readonly string[];
  readonly scores: Float32Array;
  /** Values of `PieceType`, by id. */
  readonly types: Uint8Array;
  /** A character without a piece becomes its UTF-8 bytes; otherwise UNK. */
  readonly byteFallback: boolean;
  /** Null where the model has none; a model without UNK has byte fallback. */
  readonly unkId: number | null;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  readonly normalizer: NormalizerSpec;
}

/** The space of pieces, U+2581. */
export const SPACE_SYMBOL = '▁';

const BYTE_PIECE = /^<0x([0-9A-Fa-f]{2})>$/;

/** The byte of a piece such as `<0x0A>`; null for another text. */
export function byteOfPiece(piece: string): number | null {
  const hex = BYTE_PIECE.exec(piece)?.[1];
  return hex === undefined ? null : Number.parseInt(hex, 16);
}

/** The same model in which some pieces cannot come of text. */
export function withoutPieces(model: SentencePieceModel, ids: ReadonlySet<number>): SentencePieceModel {
  const types = Uint8Array.from(model.types);
  for (const id of ids) if (id < types.length && types[id] !== PieceType.unknown) types[id] = PieceType.control;
  return { ...model, types };
}
