/** What the readers (GGUF, Hugging Face folder) hand to the tokenizer. */
import type { SentencePieceModel } from './sentencepiece/model.ts';
import type { AddedTokenJson, TokenizerJson } from './tokenizer-json.ts';
import type { UnigramTokenizerJson } from './unigram-json.ts';

/** What a model's files say about its tokens, whatever kind of tokenizer it has. */
export interface TokenizerConventions {
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly padTokenId: number | null;
  readonly unkTokenId: number | null;
  readonly endOfGenerationTokenIds: readonly number[];
  /** Ids put in front of and behind a text by `addSpecialTokens`. */
  readonly prefixTokenIds: readonly number[];
  readonly suffixTokenIds: readonly number[];
  readonly chatTemplate: string | null;
}

/** A tokenizer in the form of `tokenizer.json`. */
export interface TokenizerDefinition extends TokenizerConventions {
  readonly json: TokenizerJson;
}

/** The same with a unigram model. */
export interface UnigramDefinition extends TokenizerConventions {
  readonly json: UnigramTokenizerJson;
}

/** A sentencepiece model and the tokens that its folder adds. */
export interface SentencePieceDefinition extends TokenizerConventions {
  readonly model: SentencePieceModel;
  readonly addedTokens: readonly AddedTokenJson[];
  /** Ids beyond the named ones that text must never produce. */
  readonly turnTokenIds: readonly number[];
  /** Ids of pieces that text does not become although they are no control tokens. */
  readonly unreachableTokenIds: readonly number[];
  /** Whether text behind a control token starts anew, with a space in front. */
  readonly prefixAfterControl: boolean;
}
