import { join } from 'node:path';
import type { TokenizerSource } from '../engine/engine.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { TokenizerError } from './errors.ts';
import { readBytes, readFolderSettings, readJson } from './folder-settings.ts';
import { ggufTokenizerDefinition } from './gguf.ts';
import { tokenizerJsonDefinition } from './huggingface.ts';
import type { NativeEncoders } from './native/encoders.ts';
import { readSentencePieceModel } from './sentencepiece/read-model.ts';
import { sentencePieceDefinition } from './sentencepiece-folder.ts';
import { SentencePieceTokenizer } from './sentencepiece-tokenizer.ts';
import type { Tokenizer } from './tokenizer.ts';

/** `tokenizer.json` where there is one, else `tokenizer.model`. */
async function loadFromFolder(folder: string, encoders: NativeEncoders | null): Promise<Tokenizer> {
  const jsonPath = join(folder, 'tokenizer.json');
  const json = await readJson(jsonPath);
  if (json !== null) {
    return new BpeTokenizer(tokenizerJsonDefinition(json, jsonPath, await readFolderSettings(folder)), encoders);
  }
  const modelPath = join(folder, 'tokenizer.model');
  const bytes = await readBytes(modelPath);
  if (bytes === null) {
    throw new TokenizerError(
      'TOKENIZER_NOT_FOUND',
      `${folder} has neither tokenizer.json nor tokenizer.model (sentencepiece); put the model's own tokenizer file beside its weights`,
    );
  }
  const model = readSentencePieceModel(bytes, modelPath);
  const settings = await readFolderSettings(folder);
  return new SentencePieceTokenizer(await sentencePieceDefinition(folder, model, settings), encoders);
}

/**
 * Builds a tokenizer from a model's files.
 *
 * @param encoders The addon's, for a thread that encodes data sets; null: JavaScript's.
 * @throws TokenizerError
 */
export async function loadTokenizer(
  source: TokenizerSource,
  encoders: NativeEncoders | null = null,
): Promise<Tokenizer> {
  if (source.kind === 'huggingface') return loadFromFolder(source.folder, encoders);
  return new BpeTokenizer(ggufTokenizerDefinition(source.metadata), encoders);
}
