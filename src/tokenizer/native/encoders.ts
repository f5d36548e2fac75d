/**
 * The addon's encoders of ordinary text, for data sets. Names and order as in `engine/binding/src/tokenizer.rs`. Constructors throw where a
 * definition is not supported; the JavaScript encoders then do the work. Texts are well-formed.
 */

export interface NativeVocabulary {
  readonly tokens: readonly string[];
  /** One for each token. */
  readonly ids: Uint32Array;
  readonly mergeLeft: readonly string[];
  readonly mergeRight: readonly string[];
}

/** A pattern in the syntax of Rust's regex, without lookaround and without names of Unicode's classes. */
export interface NativeSplitPattern {
  readonly head: string;
  /** The class of white space where the pattern ends in `|\s+(?!\S)|\s+`. */
  readonly space: string | undefined;
}

interface NativeSentencePieceModel {
  readonly pieces: readonly string[];
  readonly scores: Float32Array;
  readonly types: Uint8Array;
  readonly byteFallback: boolean;
  readonly unkId: number | undefined;
  readonly charsmap: Uint8Array | undefined;
  readonly addDummyPrefix: boolean;
  readonly removeExtraWhitespaces: boolean;
  readonly escapeWhitespaces: boolean;
}

/** `encode` returns how many ids a text has; they are in `ids` where that has room for all of them. */
interface NativeTextEncoder {
  encode(text: string, ids: Uint32Array): number;
}

export interface NativeSentencePieceEncoder {
  encode(text: string, continues: boolean, ids: Uint32Array): number;
}

/** What a build of the addon exports. */
export interface NativeEncoders {
  readonly NativeByteLevelEncoder: new (
    vocabulary: NativeVocabulary,
    ignoreMerges: boolean,
    patterns: readonly NativeSplitPattern[],
  ) => NativeTextEncoder;
  readonly NativeCharacterEncoder: new (vocabulary: NativeVocabulary) => NativeTextEncoder;
  readonly NativeSentencePieceEncoder: new (model: NativeSentencePieceModel) => NativeSentencePieceEncoder;
}
