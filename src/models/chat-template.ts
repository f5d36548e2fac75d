import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TokenizerSource } from '../engine/engine.ts';

/** Whether a model's files carry a chat template, without building its tokenizer. */
export async function hasChatTemplate(source: TokenizerSource): Promise<boolean> {
  if (source.kind === 'gguf') return source.metadata.chatTemplate !== null;
  const read = (name: string): Promise<string | null> => readFile(join(source.folder, name), 'utf8').catch(() => null);
  if ((await read('chat_template.jinja')) !== null) return true;
  const configs = await Promise.all(['chat_template.json', 'tokenizer_config.json'].map(read));
  return configs.some((config) => config !== null && /"chat_template"\s*:\s*["[]/.test(config));
}
