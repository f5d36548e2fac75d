import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { corpus, oracle, packagedJson, tinyMetadata, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { byteLevelJson } from './gguf.ts';
import { loadTokenizer } from './load.ts';
import type { TokenizerJson } from './tokenizer-json.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'luthier-tokenizer-'));
});
afterAll(() => rm(folder, { recursive: true }));

const write = (name: string, value: unknown) =>
  writeFile(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
const load = () => loadTokenizer({ kind: 'huggingface', folder });

describe('a folder', () => {
  const config = {
    bos_token: { content: '<|im_start|>', special: true },
    eos_token: '<|im_end|>',
    pad_token: '<|endoftext|>',
    chat_template: [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'from the config' },
    ],
  };

  it('gives the tokenizer that the same GGUF metadata gives', async () => {
    await write('tokenizer.json', byteLevelJson(tinyMetadata()));
    await write('tokenizer_config.json', config);
    const tokenizer = await load();
    const tiny = tinyTokenizer();
    for (const text of corpus())
      expect(tokenizer.encode(text, { parseSpecial: true })).toEqual(tiny.encode(text, { parseSpecial: true }));
    expect(tokenizer).toMatchObject({ bosTokenId: 1, eosTokenId: 2, padTokenId: 0, vocabSize: tiny.vocabSize });
    expect(tokenizer.endOfGenerationTokenIds).toEqual([2]);
    expect(tokenizer.prefixTokenIds).toEqual([]);
    expect(tokenizer.chatTemplate).toBe('from the config');
  });

  it('reads every EOS of generation_config.json, and chat_template.jinja before the config', async () => {
    await write('generation_config.json', { eos_token_id: [2, 0] });
    await write('chat_template.jinja', 'from the file');
    const tokenizer = await load();
    expect(tokenizer.endOfGenerationTokenIds).toEqual([2, 0]);
    expect(tokenizer.chatTemplate).toBe('from the file');
  });

  it('puts BOS and EOS around a text as post-processor and config say', async () => {
    const post_processor = {
      type: 'TemplateProcessing',
      single: [
        { SpecialToken: { id: 'B', type_id: 0 } },
        { Sequence: { id: 'A', type_id: 0 } },
        { SpecialToken: { id: 'E', type_id: 0 } },
      ],
      special_tokens: { B: { id: 'B', ids: [1], tokens: ['B'] }, E: { id: 'E', ids: [2], tokens: ['E'] } },
    };
    await write('tokenizer.json', { ...byteLevelJson(tinyMetadata()), post_processor });
    expect([...(await load()).encode('', { addSpecialTokens: true })]).toEqual([1, 2]);
    await write('tokenizer_config.json', { ...config, add_bos_token: false });
    expect([...(await load()).encode('', { addSpecialTokens: true })]).toEqual([2]);
  });
});

it.each(['first', 'always', 'never'])(
  'gives the ids of the native library where Metaspace prepends %s',
  { timeout: 30_000 },
  async (prepend_scheme) => {
    const json: TokenizerJson = {
      ...packagedJson('llama2'),
      normalizer: null,
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme, split: false },
      post_processor: null,
    };
    await write('tokenizer.json', json);
    await write('tokenizer_config.json', { bos_token: '<s>', eos_token: '</s>', unk_token: '<unk>' });
    const tokenizer = await load();
    const native = oracle(json);
    for (const text of corpus()) {
      expect([...tokenizer.encode(text, { parseSpecial: true })], JSON.stringify(text)).toEqual(await native(text));
    }
  },
);
