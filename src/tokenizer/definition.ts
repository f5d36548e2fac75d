/** What the readers (GGUF, Hugging Face folder) hand to the tokenizer. */
import type { TokenizerJson } from './tokenizer-json.ts';

export interface TokenizerDefinition {
  readonly json: TokenizerJson;
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
