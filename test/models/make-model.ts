/** Tiny models for the command line: the golden ones, with a tokenizer where they have none. */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ggufOf } from './gguf.ts';
import { lettersJson, lettersModel } from './letters.ts';

const golden = fileURLToPath(new URL('../parity/golden/', import.meta.url));

/** Makes a model in an empty folder and returns its path. */
export type MakeModel = (folder: string) => string;

/** Puts the tokenizer of letters into a folder that has none. @param tokenizerClass As `huggingFace`. */
export function addTokenizer(folder: string, tokenizerClass = ''): void {
  if (['tokenizer.json', 'tokenizer.model'].some((name) => existsSync(join(folder, name)))) return;
  if (tokenizerClass === '') writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(lettersJson()));
  else writeFileSync(join(folder, 'tokenizer.model'), lettersModel());
  const names = { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' };
  const config = { ...names, ...(tokenizerClass === '' ? {} : { tokenizer_class: tokenizerClass }) };
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
}

/** Hugging Face's files. @param tokenizerClass Of a family whose tokenizer is sentencepiece's. @param changes Of the configuration. */
export function huggingFace(name: string, tokenizerClass = '', changes: object = {}): MakeModel {
  return (folder) => {
    cpSync(join(golden, name), folder, { recursive: true });
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object;
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...changes }));
    addTokenizer(folder, tokenizerClass);
    return folder;
  };
}

/** The same numbers as llama.cpp's file. */
export function gguf(name: string): MakeModel {
  return (folder) => {
    mkdirSync(folder, { recursive: true });
    const path = join(folder, 'model.gguf');
    writeFileSync(path, ggufOf(join(golden, name)));
    return path;
  };
}
