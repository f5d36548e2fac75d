/**
 * The used part of @huggingface/tokenizers, typed. The package's own declarations import each other without file
 * extensions, which Node's module resolution does not follow: every name would be `any` or missing.
 */
import * as untyped from '@huggingface/tokenizers';

export interface LibraryPreTokenizer {
  pre_tokenize_text(text: string, options?: object): string[];
}

interface LibrarySplit extends LibraryPreTokenizer {
  /** Null where the config has none. */
  readonly pattern: RegExp | null;
}

/** Cuts a text at added tokens; what is between them and they themselves are pieces. */
interface LibrarySplitter {
  split(text: string): string[];
}

export interface LibraryTokenizer {
  /** Finds added tokens before normalizing, and behind it. */
  splitter_unnormalized: LibrarySplitter;
  splitter_normalized: LibrarySplitter;
  readonly added_tokens_map: ReadonlyMap<string, unknown>;
  readonly normalizer: ((text: string) => string) | null;
  model: object | null;
  pre_tokenizer: LibraryPreTokenizer | null;
  /** What a text became: added tokens, and what the model gave for the words between them. */
  tokenize(text: string): (string | Uint32Array)[];
}

interface LibraryModule {
  readonly Tokenizer: new (tokenizerJson: object, tokenizerConfig: object) => LibraryTokenizer;
  readonly SplitPreTokenizer: new (config: object) => LibrarySplit;
}

export const library: LibraryModule = untyped as unknown as LibraryModule;

/** A model without a token, where another one takes its place: an empty vocabulary costs nothing. */
export const NO_MODEL = { type: 'BPE', vocab: {}, merges: [] } as const;
