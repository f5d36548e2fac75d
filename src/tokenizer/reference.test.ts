/** Ids equal those of Hugging Face's Rust library on the whole corpus, with control tokens parsed and as text. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { readGgufTokenizer, testGgufPath } from '../../test/fixtures/gguf-header.ts';
import {
  corpus,
  oracle,
  type PackagedTokenizer,
  packagedAsGguf,
  packagedFolder,
  packagedJson,
} from '../../test/fixtures/tokenizers.ts';
import { loadTokenizer } from './load.ts';
import type { Tokenizer } from './tokenizer.ts';

const NAMES: readonly PackagedTokenizer[] = ['llama2', 'llama3', 'qwen3'];
const texts = corpus();

async function expectEqual(tokenizer: Tokenizer, name: PackagedTokenizer): Promise<void> {
  const json = packagedJson(name);
  const special = oracle(json);
  const plain = oracle(json, tokenizer.controlTokenIds);
  for (const text of [...texts, texts.join('\n')]) {
    expect([...tokenizer.encode(text, { parseSpecial: true })], `parsed: ${JSON.stringify(text)}`).toEqual(
      await special(text),
    );
    expect([...tokenizer.encode(text)], `plain: ${JSON.stringify(text)}`).toEqual(await plain(text));
  }
}

describe.each(NAMES)('%s', (name) => {
  it('read from its folder gives the ids of the native library', { timeout: 60_000 }, async () => {
    await expectEqual(await loadTokenizer({ kind: 'huggingface', folder: packagedFolder(name) }), name);
  });

  it('converted from GGUF metadata gives the same ids', { timeout: 60_000 }, async () => {
    await expectEqual(await loadTokenizer({ kind: 'gguf', metadata: packagedAsGguf(name) }), name);
  });
});

describe('SmolLM2 from its GGUF file', () => {
  const fixture = new URL('../../test/fixtures/smollm2-corpus-ids.json', import.meta.url);
  const golden = JSON.parse(readFileSync(fixture, 'utf8')) as Record<'parseSpecial' | 'plain', number[][]>;

  it('gives the ids of transformers, which read the same file', async () => {
    const tokenizer = await loadTokenizer({ kind: 'gguf', metadata: readGgufTokenizer(testGgufPath()) });
    expect(texts.length).toBe(golden.plain.length);
    texts.forEach((text, index) => {
      expect([...tokenizer.encode(text, { parseSpecial: true })], JSON.stringify(text)).toEqual(
        golden.parseSpecial[index],
      );
      expect([...tokenizer.encode(text)], JSON.stringify(text)).toEqual(golden.plain[index]);
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
    });
  });
});
