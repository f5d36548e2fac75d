import { join } from 'node:path';
import type { TokenizerSource } from '../engine/engine.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import type { TokenizerDefinition, UnigramDefinition } from './definition.ts';
import { TokenizerError } from './errors.ts';
import { readBytes, readFolderSettings, readJson } from './folder-settings.ts';
import { ggufTokenizer } from './gguf.ts';
import { tokenizerJsonDefinition } from './huggingface.ts';
import type { NativeEncoders } from './native/encoders.ts';
import { readSentencePieceModel } from './sentencepiece/read-model.ts';
import { sentencePieceDefinition } from './sentencepiece-folder.ts';
import { SentencePieceTokenizer } from './sentencepiece-tokenizer.ts';
import type { Tokenizer } from './tokenizer.ts';
import { UnigramTokenizer } from './unigram-tokenizer.ts';

/** Names of one format. */
const SENTENCEPIECE_FILES = ['tokenizer.model', 'spiece.model'] as const;

const isUnigram = (definition: TokenizerDefinition | UnigramDefinition): definition is UnigramDefinition =>
  definition.json.model.type === 'Unigram';

/** `tokenizer.json` where there is one, else sentencepiece's model. */
async function loadFromFolder(folder: string, encoders: NativeEncoders | null): Promise<Tokenizer> {
  const jsonPath = join(folder, 'tokenizer.json');
  const json = await readJson(jsonPath);
  if (json !== null) {
    const definition = tokenizerJsonDefinition(json, jsonPath, await readFolderSettings(folder));
    return isUnigram(definition) ? new UnigramTokenizer(definition) : new BpeTokenizer(definition, encoders);
  }
  for (const name of SENTENCEPIECE_FILES) {
    const modelPath = join(folder, name);
    const bytes = await readBytes(modelPath);
    if (bytes === null) continue;
    const model = readSentencePieceModel(bytes, modelPath);
    const settings = await readFolderSettings(folder);
    return new SentencePieceTokenizer(await sentencePieceDefinition(folder, model, settings), encoders);
  }
  throw new TokenizerError(
    'TOKENIZER_NOT_FOUND',
    `${folder} has neither tokenizer.json nor ${SENTENCEPIECE_FILES.join(' or ')} (sentencepiece); put the model's own tokenizer file beside its weights`,
  );
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
  return ggufTokenizer(source.metadata, encoders);
}
