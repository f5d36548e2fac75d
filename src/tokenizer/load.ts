import type { TokenizerSource } from '../engine/engine.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { ggufTokenizerDefinition } from './gguf.ts';
import { huggingFaceTokenizerDefinition } from './huggingface.ts';
import type { Tokenizer } from './tokenizer.ts';

/**
 * Builds a tokenizer from a model's files.
 *
 * @throws TokenizerError
 */
export async function loadTokenizer(source: TokenizerSource): Promise<Tokenizer> {
  const definition =
    source.kind === 'gguf'
      ? ggufTokenizerDefinition(source.metadata)
      : await huggingFaceTokenizerDefinition(source.folder);
  return new BpeTokenizer(definition);
}
