/**
 * Sentencepiece's unigram model: of all ways to cut a text into pieces the one with the highest sum of scores. Sums are
 * rounded to 32 bits as sentencepiece rounds them, so that near ties fall alike; of equal sums the first one found stays,
 * which has the longest last piece. As in version 0.2.3: earlier ones compare before rounding and score user-defined
 * pieces otherwise.
 */
import { characterLength } from './bpe-vocabulary.ts';
import { PieceType, type SentencePieceModel } from './model.ts';
import type { PieceSink, Segmenter } from './segmenter.ts';
import { UnitTrie } from './unit-trie.ts';

const NONE = -1;
/** How much worse than the worst piece an unknown character is. */
export const UNKNOWN_PENALTY = 10;
/** The largest 32-bit number, from which sentencepiece starts the lowest score. */
const LARGEST = (2 - 2 ** -23) * 2 ** 127;
/** Sums beyond are set back to 0, so that long texts do not lose precision. */
const RESET_THRESHOLD = 100_000;

/** Scores are log probabilities, at most 0: a user-defined piece always wins, a long one against shorter ones. */
const userDefinedScore = (piece: string): number => 0.1 * (Buffer.byteLength(piece) - 1);

export class UnigramSegmenter implements Segmenter {
  readonly #trie: UnitTrie;
  readonly #scores: Float32Array | Float64Array;
  readonly #unknownScore: number;

  /**
   * @param scores By id. Of 32 bits: sums are rounded and set back as sentencepiece does it; of 64 bits: neither, as Hugging Face does it.
   * @param unknownScore Of a character that no piece expresses.
   */
  constructor(
    pieces: readonly (readonly [piece: string, id: number])[],
    scores: Float32Array | Float64Array,
    unknownScore: number,
  ) {
    this.#trie = new UnitTrie(pieces);
    this.#scores = scores;
    this.#unknownScore = unknownScore;
  }

  segment(normalized: string, sink: PieceSink): void {
    const length = normalized.length;
    const trie = this.#trie;
    const scores = this.#scores;
    const isSingle = scores instanceof Float32Array;
    // The best way that ends at a place: its sum, its last piece and where that starts.
    const best = isSingle ? new Float32Array(length + 1) : new Float64Array(length + 1);
    const pieces = new Int32Array(length + 1);
    const starts = new Int32Array(length + 1).fill(NONE);
    let reached = 0;
    for (let start = 0; start < length; ) {
      if (isSingle && Math.abs(best[start] as number) > RESET_THRESHOLD) reset(best, starts, start, reached);
      const sum = best[start] as number;
      const characterEnd = start + characterLength(normalized.codePointAt(start) ?? 0);
      let isKnown = false;
      let node = trie.root;
      for (let at = start; at < length; ) {
        node = trie.step(node, normalized.charCodeAt(at++));
        if (node === NONE) break;
        const id = trie.value(node);
        if (id === NONE) continue;
        if (at > reached) reached = at;
        const candidate = isSingle ? Math.fround((scores[id] as number) + sum) : (scores[id] as number) + sum;
        if (starts[at] === NONE || candidate > (best[at] as number)) {
          best[at] = candidate;
          pieces[at] = id;
          starts[at] = start;
        }
        if (at === characterEnd) isKnown = true;
      }
      if (!isKnown) {
        if (characterEnd > reached) reached = characterEnd;
        const candidate = isSingle ? Math.fround(this.#unknownScore + sum) : this.#unknownScore + sum;
        if (starts[characterEnd] === NONE || candidate > (best[characterEnd] as number)) {
          best[characterEnd] = candidate;
          pieces[characterEnd] = NONE;
          starts[characterEnd] = start;
        }
      }
      start = characterEnd;
    }
    // Backwards from the end, then handed on forwards.
    const ends: number[] = [];
    for (let end = length; end > 0; end = starts[end] as number) ends.push(end);
    for (let index = ends.length - 1; index >= 0; index--) {
      const end = ends[index] as number;
      const id = pieces[end] as number;
      if (id === NONE) sink.unknown(normalized.codePointAt(starts[end] as number) ?? 0);
      else sink.piece(id);
    }
  }
}

/** The segmenter of a sentencepiece model. */
export function unigramSegmenter(model: SentencePieceModel): UnigramSegmenter {
  const ids = [...model.pieces.keys()];
  const of = (type: number): number[] => ids.filter((id) => model.types[id] === type);
  const userDefined = of(PieceType.userDefined);
  const normal = of(PieceType.normal);
  const scores = Float32Array.from(model.scores);
  for (const id of userDefined) scores[id] = userDefinedScore(model.pieces[id] ?? '');
  const lowest = normal.reduce((least, id) => Math.min(least, model.scores[id] ?? 0), LARGEST);
  const pieces = [...normal, ...userDefined].map((id) => [model.pieces[id] ?? '', id] as const);
  return new UnigramSegmenter(pieces, scores, Math.fround(lowest - UNKNOWN_PENALTY));
}

/** Takes the sum at `start` off every sum from there on. */
function reset(best: Float32Array | Float64Array, starts: Int32Array, start: number, reached: number): void {
  const offset = best[start] as number;
  for (let at = start; at <= reached; at++) {
    if (at === start || starts[at] !== NONE) best[at] = (best[at] as number) - offset;
  }
}
