/** A sentencepiece model in the addon. */
import type { SentencePieceEncoder } from '../sentencepiece/encoder.ts';
import type { SentencePieceModel } from '../sentencepiece/model.ts';
import type { NativeEncoders, NativeSentencePieceEncoder } from './encoders.ts';
import { IdRoom } from './id-room.ts';

/**
 * @param model Without pieces that text must not produce.
 * @returns Null for unigram models, which JavaScript encodes.
 */
export function nativeSentencePiece(
  encoders: NativeEncoders,
  model: SentencePieceModel,
): Pick<SentencePieceEncoder, 'encode'> | null {
  if (model.algorithm !== 'bpe') return null;
  const { charsmap, ...rules } = model.normalizer;
  let encoder: NativeSentencePieceEncoder;
  try {
    encoder = new encoders.NativeSentencePieceEncoder({
      ...rules,
      pieces: model.pieces,
      scores: model.scores,
      types: model.types,
      byteFallback: model.byteFallback,
      unkId: model.unkId ?? undefined,
      charsmap: charsmap?.blob,
    });
  } catch {
    return null;
  }
  const room = new IdRoom();
  return {
    encode: (text, continues, ids) => room.append(ids, (list) => encoder.encode(text, continues, list)),
  };
}
