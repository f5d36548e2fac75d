import { join } from 'node:path';
import type { TokenizerSource } from '../engine/engine.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { TokenizerError } from './errors.ts';
import { readBytes, readFolderSettings, readJson } from './folder-settings.ts';
import { ggufTokenizerDefinition } from './gguf.ts';
import { tokenizerJsonDefinition } from './huggingface.ts';
import { readSentencePieceModel } from './sentencepiece/read-model.ts';
import { sentencePieceDefinition } from './sentencepiece-folder.ts';
import { SentencePieceTokenizer } from './sentencepiece-tokenizer.ts';
import type { Tokenizer } from './tokenizer.ts';

/** `tokenizer.json` where there is one, else `tokenizer.model`. */
async function loadFromFolder(folder: string): Promise<Tokenizer> {
  const jsonPath = join(folder, 'tokenizer.json');
  const json = await readJson(jsonPath);
  if (json !== null) {
    return new BpeTokenizer(tokenizerJsonDefinition(json, jsonPath, await readFolderSettings(folder)));
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
  return new SentencePieceTokenizer(await sentencePieceDefinition(folder, model, settings));
}

/**
 * Builds a tokenizer from a model's files.
 *
 * @throws TokenizerError
 */
export async function loadTokenizer(source: TokenizerSource): Promise<Tokenizer> {
  if (source.kind === 'huggingface') return loadFromFolder(source.folder);
  return new BpeTokenizer(ggufTokenizerDefinition(source.metadata));
}
