/** Text to ids, as sentencepiece's `Encode`. */
import { BpeSegmenter } from './bpe.ts';
import { byteOfPiece, PieceType, type SentencePieceModel } from './model.ts';
import { Normalizer } from './normalizer.ts';
import type { PieceSink, Segmenter } from './segmenter.ts';
import { unigramSegmenter } from './unigram.ts';

const encoder = new TextEncoder();

export class SentencePieceEncoder {
  readonly #normalizer: Normalizer;
  readonly #segmenter: Segmenter;
  readonly #byteIds: Int32Array | null;
  readonly #unkId: number | null;

  constructor(model: SentencePieceModel) {
    const userDefined = model.pieces.filter((_, id) => model.types[id] === PieceType.userDefined);
    this.#normalizer = new Normalizer(model.normalizer, userDefined);
    this.#segmenter = model.algorithm === 'bpe' ? new BpeSegmenter(model) : unigramSegmenter(model);
    this.#byteIds = model.byteFallback ? byteIds(model) : null;
    this.#unkId = model.unkId;
  }

  /**
   * Appends the ids of a text.
   * @param continues the text stands behind other text: no space is put in front
   */
  encode(text: string, continues: boolean, ids: number[]): void {
    const normalized = this.#normalizer.normalize(text, continues);
    if (normalized.length === 0) return;
    const start = ids.length;
    const unk = this.#unkId;
    const bytes = this.#byteIds;
    const sink: PieceSink = {
      piece: (id) => {
        ids.push(id);
      },
      unknown: (codePoint) => {
        if (bytes !== null) {
          for (const byte of encoder.encode(String.fromCodePoint(codePoint))) ids.push(bytes[byte] as number);
        } else if (unk !== null && (ids.length === start || ids.at(-1) !== unk)) {
          // A run of unknown characters is one UNK.
          ids.push(unk);
        }
      },
    };
    this.#segmenter.segment(normalized, sink);
  }
}

function byteIds(model: SentencePieceModel): Int32Array {
  const ids = new Int32Array(256);
  model.pieces.forEach((piece, id) => {
    if (model.types[id] === PieceType.byte) ids[byteOfPiece(piece) ?? 0] = id;
  });
  return ids;
}
