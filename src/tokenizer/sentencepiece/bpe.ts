/**
 * Sentencepiece's BPE: characters are merged pair by pair, of all pairs that make a piece the one with the best score
 * first, of equal scores the leftmost. User-defined pieces are found before and take no part.
 *
 * A text is cut wherever no merge can join two characters, which changes no id: time stays near linear, and words that
 * come again are remembered. A model with `UNUSED` pieces is the exception: sentencepiece splits such a piece as it was
 * last about to be made anywhere in the text.
 */
import { BpeVocabulary, characterLength, UNKNOWN_BASE } from './bpe-vocabulary.ts';
import { MergeQueue } from './merge-queue.ts';
import { PieceType, type SentencePieceModel } from './model.ts';
import type { PieceSink, Segmenter } from './segmenter.ts';
import { UnitTrie } from './unit-trie.ts';

const NONE = -1;
/** Marks user-defined pieces, so that the table of merges does not know them: above ids, below UNKNOWN_BASE. */
const FROZEN_BASE = 2 ** 29;
/** Factor of the rank in a merge's place in the queue; above every length of a string. */
const RANK_STRIDE = 2 ** 30;
/** Splits of splits of unused pieces; deeper ones stay whole. */
const MAX_SPLIT_DEPTH = 100;
/** Words that are remembered: about 10 MB. */
const CACHE_WORDS = 65_536;
const CACHED_UNITS = 32;

export class BpeSegmenter implements Segmenter {
  readonly #vocabulary: BpeVocabulary;
  readonly #userDefined: UnitTrie;
  readonly #unused: ReadonlySet<number>;
  readonly #pieces: readonly string[];
  readonly #queue = new MergeQueue();
  readonly #cache = new Map<string, readonly number[]>();
  /** How an unused piece was last about to be made. */
  readonly #splits = new Map<number, readonly [left: number, right: number]>();
  /** The stretch at hand; its first `#length` entries count. */
  #symbols = new Int32Array(64);
  #length = 0;

  constructor(model: SentencePieceModel) {
    this.#vocabulary = new BpeVocabulary(model);
    this.#pieces = model.pieces;
    const idsOf = (type: number): number[] => [...model.pieces.keys()].filter((id) => model.types[id] === type);
    this.#userDefined = new UnitTrie(idsOf(PieceType.userDefined).map((id) => [model.pieces[id] ?? '', id]));
    this.#unused = new Set(idsOf(PieceType.unused));
  }

  segment(normalized: string, sink: PieceSink): void {
    const whole = this.#unused.size > 0;
    this.#splits.clear();
    let start = 0;
    let before = NONE;
    for (let at = 0; at < normalized.length; ) {
      const piece = this.#userDefined.longest(normalized, at);
      let symbol: number;
      let end: number;
      if (piece === null) {
        const codePoint = normalized.codePointAt(at) ?? 0;
        symbol = this.#vocabulary.character(codePoint);
        end = at + characterLength(codePoint);
      } else {
        symbol = FROZEN_BASE + piece.value;
        end = piece.end;
      }
      if (at > start && !whole && this.#vocabulary.joints.get(before, symbol) === NONE) {
        this.#flush(normalized, start, at, sink);
        start = at;
      }
      this.#append(symbol);
      before = symbol;
      at = end;
    }
    if (start < normalized.length) this.#flush(normalized, start, normalized.length, sink);
  }

  #append(symbol: number): void {
    if (this.#length === this.#symbols.length) {
      const grown = new Int32Array(2 * this.#length);
      grown.set(this.#symbols);
      this.#symbols = grown;
    }
    this.#symbols[this.#length++] = symbol;
  }

  /** Merges the stretch at hand and hands it on. */
  #flush(text: string, start: number, end: number, sink: PieceSink): void {
    if (this.#length === 1) {
      this.#emit(this.#symbols[0] as number, sink);
    } else if (end - start <= CACHED_UNITS && this.#unused.size === 0) {
      const word = text.slice(start, end);
      let symbols = this.#cache.get(word);
      if (symbols === undefined) {
        symbols = this.#merge();
        if (this.#cache.size >= CACHE_WORDS) this.#cache.clear();
        this.#cache.set(word, symbols);
      }
      for (const symbol of symbols) this.#emit(symbol, sink);
    } else {
      for (const symbol of this.#merge()) this.#emit(symbol, sink);
    }
    this.#length = 0;
  }

  #merge(): number[] {
    const length = this.#length;
    const symbols = this.#symbols;
    const { merges, ranks } = this.#vocabulary;
    const queue = this.#queue;
    // Neighbours by index; `length` stands for the end, a merged right symbol reads NONE.
    const next = Int32Array.from({ length }, (_, index) => index + 1);
    const previous = Int32Array.from({ length }, (_, index) => index - 1);
    // What a symbol makes with its right neighbour. An entry of the queue counts while it names the rank of that piece.
    const joined = new Int32Array(length).fill(NONE);
    const consider = (left: number): void => {
      const right = next[left] as number;
      const piece = right < length ? merges.get(symbols[left] as number, symbols[right] as number) : NONE;
      joined[left] = piece;
      if (piece === NONE) return;
      queue.push((ranks[piece] as number) * RANK_STRIDE + left);
      if (this.#unused.has(piece)) this.#splits.set(piece, [symbols[left] as number, symbols[right] as number]);
    };
    for (let left = 0; left + 1 < length; left++) consider(left);
    while (queue.size > 0) {
      const entry = queue.pop();
      const left = entry % RANK_STRIDE;
      const piece = joined[left] as number;
      if (piece === NONE || ranks[piece] !== (entry - left) / RANK_STRIDE) continue;
      const right = next[left] as number;
      symbols[left] = piece;
      symbols[right] = NONE;
      joined[right] = NONE;
      const behind = next[right] as number;
      next[left] = behind;
      if (behind < length) previous[behind] = left;
      const front = previous[left] as number;
      if (front >= 0) consider(front);
      consider(left);
    }
    const merged: number[] = [];
    for (let index = 0; index < length; index = next[index] as number) merged.push(symbols[index] as number);
    return merged;
  }

  #emit(symbol: number, sink: PieceSink, depth = 0): void {
    if (symbol >= UNKNOWN_BASE) sink.unknown(symbol - UNKNOWN_BASE);
    else if (symbol >= FROZEN_BASE) sink.piece(symbol - FROZEN_BASE);
    else if (depth > MAX_SPLIT_DEPTH || !this.#unused.has(symbol)) sink.piece(symbol);
    else this.#emitUnused(symbol, sink, depth);
  }

  #emitUnused(id: number, sink: PieceSink, depth: number): void {
    const split = this.#splits.get(id);
    if (split === undefined) {
      // A single character.
      sink.unknown(this.#pieces[id]?.codePointAt(0) ?? 0);
      return;
    }
    this.#emit(split[0], sink, depth + 1);
    this.#emit(split[1], sink, depth + 1);
  }
}
