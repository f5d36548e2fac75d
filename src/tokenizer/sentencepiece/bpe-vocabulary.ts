/**
 * A BPE model's pieces as merges. A symbol is a piece's id, or a character without a piece (`UNKNOWN_BASE` + code point).
 */
import { PieceType, type SentencePieceModel } from './model.ts';
import { PairTable } from './pair-table.ts';

/** Above every id; the highest code point still fits into 31 bits. */
export const UNKNOWN_BASE = 2 ** 30;

/** Whether text can become this piece. */
const isMergeable = (type: number | undefined): boolean =>
  type === PieceType.normal || type === PieceType.userDefined || type === PieceType.unused;

export class BpeVocabulary {
  /** The piece that two symbols make. */
  readonly merges = new PairTable();
  /** Pairs of characters that stand side by side where two symbols of a merge meet; all others may be cut apart. */
  readonly joints = new PairTable();
  /** Place of a piece's score among all scores, best first; equal scores have one rank. */
  readonly ranks: Int32Array;
  readonly #basic = new Int32Array(0x10000).fill(-1);
  readonly #astral = new Map<number, number>();

  constructor(model: SentencePieceModel) {
    this.ranks = ranksOf(model.scores);
    const ids = new Map<string, number>();
    model.pieces.forEach((piece, id) => {
      if (!isMergeable(model.types[id])) return;
      ids.set(piece, id);
      const first = piece.codePointAt(0) ?? 0;
      if (piece.length !== characterLength(first)) return;
      if (first < 0x10000) this.#basic[first] = id;
      else this.#astral.set(first, id);
    });
    for (const [piece, id] of ids) this.#addMerges(piece, id, ids);
  }

  /** The symbol of a character. */
  character(codePoint: number): number {
    const id = codePoint < 0x10000 ? (this.#basic[codePoint] as number) : (this.#astral.get(codePoint) ?? -1);
    return id >= 0 ? id : UNKNOWN_BASE + codePoint;
  }

  /** Every way to make a piece of two symbols. */
  #addMerges(piece: string, id: number, ids: ReadonlyMap<string, number>): void {
    let before = piece.codePointAt(0) ?? 0;
    for (let cut = characterLength(before); cut < piece.length; ) {
      const after = piece.codePointAt(cut) ?? 0;
      const left = this.#symbol(piece.slice(0, cut), ids);
      const right = left < 0 ? -1 : this.#symbol(piece.slice(cut), ids);
      if (right >= 0) {
        this.merges.set(left, right, id);
        this.joints.set(this.character(before), this.character(after), 1);
      }
      before = after;
      cut += characterLength(after);
    }
  }

  #symbol(text: string, ids: ReadonlyMap<string, number>): number {
    const id = ids.get(text);
    if (id !== undefined) return id;
    const first = text.codePointAt(0) ?? 0;
    return text.length === characterLength(first) ? UNKNOWN_BASE + first : -1;
  }
}

/** UTF-16 units of a code point. */
export const characterLength = (codePoint: number): number => (codePoint >= 0x10000 ? 2 : 1);

function ranksOf(scores: Float32Array): Int32Array {
  const ranks = new Map<number, number>();
  for (const score of Float32Array.from(scores).sort().reverse()) if (!ranks.has(score)) ranks.set(score, ranks.size);
  return Int32Array.from(scores, (score) => ranks.get(score) ?? 0);
}
