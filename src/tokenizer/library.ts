/**
 * The used part of @huggingface/tokenizers, typed. The package's own declarations import each other without file
 * extensions, which Node's module resolution does not follow: every name would be `any` or missing.
 */
import * as untyped from '@huggingface/tokenizers';

export interface LibraryPreTokenizer {
  pre_tokenize_text(text: string, options?: object): string[];
}

export interface LibraryTokenizer {
  model: object | null;
  pre_tokenizer: LibraryPreTokenizer | null;
  /** Tokens of a text, without special tokens. */
  tokenize(text: string): string[];
}

interface LibraryModule {
  readonly Tokenizer: new (tokenizerJson: object, tokenizerConfig: object) => LibraryTokenizer;
  readonly SplitPreTokenizer: new (config: object) => LibraryPreTokenizer;
}

export const library: LibraryModule = untyped as unknown as LibraryModule;
