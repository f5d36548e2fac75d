import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type ModelName, sentencePieceFile } from '../../test/fixtures/sentencepiece.ts';
import { loadTokenizer } from './load.ts';
import type { Tokenizer } from './tokenizer.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'luthier-sentencepiece-'));
});
afterEach(() => rm(folder, { recursive: true }));

type Files = Readonly<Record<string, unknown>>;

async function load(model: ModelName, files: Files = {}): Promise<Tokenizer> {
  await writeFile(join(folder, 'tokenizer.model'), sentencePieceFile(model));
  for (const [name, value] of Object.entries(files)) {
    await writeFile(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
  }
  return loadTokenizer({ kind: 'huggingface', folder });
}

const parsed = { parseSpecial: true } as const;

interface Golden {
  readonly texts: readonly string[];
  readonly cases: readonly {
    readonly model: ModelName;
    readonly name: string;
    readonly files: Files;
    readonly ids: readonly (readonly number[])[];
  }[];
}

const golden = JSON.parse(
  readFileSync(new URL('../../test/parity/golden/sentencepiece/folders.json', import.meta.url), 'utf8'),
) as Golden;

describe("transformers' class in Python", () => {
  it.each(golden.cases)('gives the same ids: $model, $name', async ({ model, files, ids }) => {
    const tokenizer = await load(model, files);
    const found = golden.texts.map((text) => [...tokenizer.encode(text, { ...parsed, addSpecialTokens: true })]);
    expect(found).toEqual(ids);
  });
});

describe('a folder with tokenizer.model alone', () => {
  it("has the model's own BOS, EOS and UNK, and puts BOS in front", async () => {
    const tokenizer = await load('llama2');
    expect(tokenizer).toMatchObject({
      bosTokenId: 1,
      eosTokenId: 2,
      unkTokenId: 0,
      padTokenId: null,
      vocabSize: 32000,
    });
    expect(tokenizer).toMatchObject({ prefixTokenIds: [1], endOfGenerationTokenIds: [2], chatTemplate: null });
    expect(tokenizer.decode(tokenizer.encode('你好 😀  x'))).toBe('你好 😀  x');
  });

  it('is not read where there is a tokenizer.json', async () => {
    await load('llama2');
    await writeFile(join(folder, 'tokenizer.json'), '{}');
    await expect(loadTokenizer({ kind: 'huggingface', folder })).rejects.toThrow(/tokenizer\.json has no `model`/);
  });
});

describe('Baichuan', () => {
  it('reads its settings: no BOS in front, turns from generation_config.json', async () => {
    const tokenizer = await load('bpe-bytes', {
      'tokenizer_config.json': {
        tokenizer_class: 'BaichuanTokenizer',
        add_bos_token: false,
        add_eos_token: false,
        bos_token: { content: '<s>', __type: 'AddedToken' },
        legacy: false,
      },
      'generation_config.json': { eos_token_id: 2, user_token_id: 400, assistant_token_id: 401 },
    });
    expect(tokenizer.prefixTokenIds).toEqual([]);
    const user = tokenizer.idToPiece(400) ?? '';
    expect([...tokenizer.encode(user, parsed)]).toEqual([400]);
    expect([...tokenizer.encode(user)]).not.toContain(400);
    // The model has no space in front, and `legacy` is not this class's to read.
    expect(tokenizer.idToPiece(tokenizer.encode('hello')[0] ?? -1)).not.toMatch(/^▁/);
  });
});

describe('ChatGLM', () => {
  const config = { 'tokenizer_config.json': { tokenizer_class: 'ChatGLMTokenizer', legacy: false } };

  it('numbers its tokens behind the pieces and begins with [gMASK] sop', async () => {
    const tokenizer = await load('bpe-symbols', config);
    expect(tokenizer.vocabSize).toBe(729);
    expect([...tokenizer.encode('', { addSpecialTokens: true })]).toEqual([721, 723]);
    expect([
      ...tokenizer.encode('[MASK][gMASK][sMASK]sopeop<|system|><|user|><|assistant|><|observation|>', parsed),
    ]).toEqual([720, 721, 722, 723, 724, 725, 726, 727, 728]);
    expect(tokenizer).toMatchObject({ eosTokenId: 2, padTokenId: 0, endOfGenerationTokenIds: [2, 726, 728] });
    expect([...tokenizer.encode('[gMASK]sop')].every((id) => id < 720)).toBe(true);
  });

  it('starts anew behind a role, as its class encodes bit by bit', async () => {
    const tokenizer = await load('bpe-symbols', config);
    const ids = [...tokenizer.encode('<|user|>\n hello', parsed)];
    expect(ids).toEqual([726, ...tokenizer.encode('\n hello')]);
  });

  it('keeps its tokens special where tokenizer_config.json calls them ordinary', async () => {
    const decoder = { 721: { content: '[gMASK]', special: false }, 723: { content: 'sop', special: false } };
    const files = { 'tokenizer_config.json': { tokenizer_class: 'ChatGLMTokenizer', added_tokens_decoder: decoder } };
    const tokenizer = await load('bpe-symbols', files);
    expect([...tokenizer.encode('a sop b')]).not.toContain(723);
  });
});

describe('other files', () => {
  it('name tokens and ends: special_tokens_map.json, added_tokens.json, generation_config.json', async () => {
    const tokenizer = await load('bpe-bytes', {
      'special_tokens_map.json': {
        eos_token: '<end>',
        pad_token: { content: '<unk>' },
        additional_special_tokens: ['<x>'],
      },
      'added_tokens.json': { '<end>': 700, '<x>': 701, '<y>': 702 },
      'generation_config.json': { eos_token_id: [700, 2] },
    });
    expect(tokenizer).toMatchObject({ eosTokenId: 700, padTokenId: 0, endOfGenerationTokenIds: [700, 2] });
    expect([...tokenizer.encode('<x><y>')]).not.toContain(701);
    expect([...tokenizer.encode('<x><y>')]).toContain(702);
    expect([...tokenizer.encode('<x>', parsed)]).toEqual([701]);
  });

  it.each<[string, Files, string]>([
    ['jinja', { 'chat_template.jinja': 'a', 'chat_template.json': { chat_template: 'b' } }, 'a'],
    ['json', { 'chat_template.json': { chat_template: 'b' }, 'tokenizer_config.json': { chat_template: 'c' } }, 'b'],
    ['config', { 'tokenizer_config.json': { chat_template: 'c' } }, 'c'],
  ])('bring the chat template: %s', async (_, files, template) => {
    expect((await load('bpe-bytes', files)).chatTemplate).toBe(template);
  });

  it.each<[string, Files, RegExp]>([
    ['an id that is none', { 'added_tokens.json': { '<x>': -1 } }, /added_tokens\.json holds the token id -1/],
    ['an id beyond reason', { 'added_tokens.json': { '<x>': 1e9 } }, /expected an integer from 0 to/],
    ['broken JSON', { 'tokenizer_config.json': '{' }, /tokenizer_config\.json is not valid JSON/],
  ])('are refused: %s', async (_, files, message) => {
    await expect(load('bpe-bytes', files)).rejects.toThrow(message);
  });

  it('may be missing, and the model may be called spiece.model', async () => {
    await writeFile(join(folder, 'spiece.model'), sentencePieceFile('albert'));
    const tokenizer = await loadTokenizer({ kind: 'huggingface', folder });
    expect(tokenizer.vocabSize).toBe(30_000);
    expect(tokenizer.decode(tokenizer.encode('hello world'))).toBe('hello world');
    // Where both are there, the usual name counts.
    expect((await load('llama2')).vocabSize).toBe(32_000);
  });

  it('are missing: the folder has no tokenizer', async () => {
    await expect(loadTokenizer({ kind: 'huggingface', folder })).rejects.toMatchObject({ code: 'TOKENIZER_NOT_FOUND' });
    await writeFile(join(folder, 'tokenizer.model'), 'IQ== 0\n');
    await expect(loadTokenizer({ kind: 'huggingface', folder })).rejects.toThrow(
      /tokenizer\.model is not a sentencepiece model/,
    );
  });
});

it('never makes a control token of text', { timeout: 20_000 }, async () => {
  const files = {
    'tokenizer_config.json': { tokenizer_class: 'ChatGLMTokenizer', additional_special_tokens: ['ABAB'] },
  };
  const tokenizer = await load('bpe-symbols', files);
  expect(tokenizer.controlTokenIds.has(tokenizer.pieceToId('ABAB') ?? -1)).toBe(true);
  const parts = [
    '<s>',
    '</s>',
    '<unk>',
    'AB',
    'ABAB',
    '[gMASK]',
    'sop',
    '<|user|>',
    '<|',
    '|>',
    ' ',
    '▁',
    'x',
    '你',
    '\n',
  ];
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...parts), { maxLength: 10 }), (list) => {
      const ids = [...tokenizer.encode(list.join(''))];
      expect(ids.filter((id) => tokenizer.controlTokenIds.has(id))).toEqual([]);
    }),
    { numRuns: 500 },
  );
});
