/** Normalized text to pieces: what the two algorithms share. */

/** Takes pieces from left to right. */
export interface PieceSink {
  /** A piece of the vocabulary. */
  piece(id: number): void;
  /** A character that no piece expresses. */
  unknown(codePoint: number): void;
}

export interface Segmenter {
  segment(normalized: string, sink: PieceSink): void;
}
