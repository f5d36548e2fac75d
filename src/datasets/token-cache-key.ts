/** What examples follow from, as one hash: equal keys have equal tokens. */
import { createHash, type Hash } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { GgufTokenizerMetadata, TokenizerSource } from '../engine/engine.ts';
import type { TemplateIdentity, TrainOn } from '../prompt/renderer.ts';
import { readBytes } from '../tokenizer/folder-settings.ts';
import { packageVersion } from '../version.ts';
import type { FormatName } from './formats.ts';
import type { OverLength } from './over-length.ts';

export interface TokenCacheInputs {
  /** Of the data set's bytes; hex. */
  readonly contentHash: string;
  readonly format: FormatName;
  readonly tokenizer: TokenizerSource;
  readonly vocabSize: number;
  /** Null for exact ids. */
  readonly template: TemplateIdentity | null;
  readonly trainOn: TrainOn;
  /** In tokens; the model's context where nothing else was asked for. */
  readonly maxSeqLength: number;
  readonly overLength: OverLength;
}

/** Of the files beside a model's weights, those that a tokenizer may be read from. */
const isTokenizerFile = (name: string): boolean =>
  /\.(json|txt|jinja|model)$/.test(name) && !name.endsWith('.index.json');

function addGguf(hash: Hash, metadata: GgufTokenizerMetadata): void {
  // Numbers in place of typed arrays, whose JSON is long.
  const { scores, tokenTypes, ...rest } = metadata;
  hash.update(JSON.stringify(rest));
  for (const numbers of [scores, tokenTypes]) {
    hash.update(numbers === null ? 'null' : new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
  }
}

async function addFolder(hash: Hash, folder: string): Promise<void> {
  const names = (await readdir(folder)).filter(isTokenizerFile).sort();
  for (const name of names) {
    const bytes = await readBytes(join(folder, name));
    if (bytes !== null) hash.update(`${name} ${bytes.length}\n`).update(bytes);
  }
}

/** 32 bytes in hex. The server's version counts, too: what renders and encodes may differ between versions. */
export async function tokenCacheKey({ tokenizer, ...inputs }: TokenCacheInputs): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([packageVersion(), inputs]));
  // Exact ids have no use for it.
  if (inputs.template === null) return hash.digest('hex');
  if (tokenizer.kind === 'gguf') addGguf(hash, tokenizer.metadata);
  else await addFolder(hash, tokenizer.folder);
  return hash.digest('hex');
}
