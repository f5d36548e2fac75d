/** Ids equal those of Hugging Face's Rust library, on tokenizer.json files made of real and small unigram models as transformers makes them. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Tokenizer as NativeTokenizer } from 'tokenizers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { randomTexts } from '../../test/fixtures/random-texts.ts';
import { type ModelName, sentencePieceFile, sentencePieceTexts } from '../../test/fixtures/sentencepiece.ts';
import { corpus } from '../../test/fixtures/tokenizers.ts';
import { plainToken } from './control-tokens.ts';
import { loadTokenizer } from './load.ts';
import { PieceType } from './sentencepiece/model.ts';
import { readSentencePieceModel } from './sentencepiece/read-model.ts';
import type { Tokenizer } from './tokenizer.ts';
import type { ComponentJson } from './tokenizer-json.ts';
import type { UnigramTokenizerJson } from './unigram-json.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'luthier-unigram-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function load(json: object): Promise<Tokenizer> {
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(json));
  return loadTokenizer({ kind: 'huggingface', folder });
}

const metaspace = (more: object = {}): ComponentJson => ({
  type: 'Metaspace',
  replacement: '▁',
  prepend_scheme: 'always',
  split: true,
  ...more,
});

function jsonOf(name: ModelName, preTokenizer: ComponentJson): UnigramTokenizerJson {
  const model = readSentencePieceModel(sentencePieceFile(name), name);
  const { charsmap } = model.normalizer;
  const precompiled = {
    type: 'Precompiled',
    precompiled_charsmap: Buffer.from(charsmap?.blob ?? []).toString('base64'),
  };
  const spaces = { type: 'Replace', pattern: { Regex: ' {2,}' }, content: ' ' };
  const special = [...model.pieces.keys()].filter((id) => {
    return model.types[id] === PieceType.control || model.types[id] === PieceType.unknown;
  });
  return {
    added_tokens: special.map((id) => plainToken(id, model.pieces[id] ?? '', true)),
    normalizer: { type: 'Sequence', normalizers: charsmap === null ? [spaces] : [precompiled, spaces] },
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: metaspace(),
    model: {
      type: 'Unigram',
      unk_id: model.unkId,
      vocab: model.pieces.map((piece, id) => [piece, model.scores[id] ?? 0] as const),
      byte_fallback: model.byteFallback,
    },
  };
}

/** The file in which no text reads as one of these tokens. */
function withoutTokens(json: UnigramTokenizerJson, ids: ReadonlySet<number>): UnigramTokenizerJson {
  const hidden = (id: number, text: string): string => (ids.has(id) ? `\u{10fffe}${id}\u{10fffe}` : text);
  return {
    ...json,
    added_tokens: json.added_tokens.map((token) => ({ ...token, content: hidden(token.id, token.content) })),
    model: { ...json.model, vocab: json.model.vocab.map(([piece, score], id) => [hidden(id, piece), score]) },
  };
}

const oracle = (json: UnigramTokenizerJson): ((text: string) => Promise<string>) => {
  const native = NativeTokenizer.fromString(JSON.stringify(json));
  return async (text) => (await native.encode(text, null, { addSpecialTokens: false })).getIds().join();
};

const texts = [
  ...corpus(),
  ...randomTexts(5000).map((text) => text.toWellFormed()),
  ...sentencePieceTexts().slice(0, 2000),
];

async function wrongTexts(json: UnigramTokenizerJson): Promise<string[]> {
  const tokenizer = await load(json);
  const parsed = oracle(json);
  const plain = oracle(withoutTokens(json, tokenizer.controlTokenIds));
  const wrong: string[] = [];
  for (const [index, text] of texts.entries()) {
    const parseSpecial = index % 2 === 0;
    const expected = await (parseSpecial ? parsed : plain)(text);
    if (tokenizer.encode(text, { parseSpecial }).join() !== expected) wrong.push(JSON.stringify(text));
  }
  return wrong.slice(0, 5);
}

const WHITE_SPACE_SPLIT = { type: 'Sequence', pretokenizers: [{ type: 'WhitespaceSplit' }, metaspace()] };

describe('ids', () => {
  it.each<[ModelName, string, ComponentJson]>([
    ['albert', 'Metaspace', metaspace()],
    ['albert', 'WhitespaceSplit and Metaspace', WHITE_SPACE_SPLIT],
    ['smart', 'Metaspace that does not split', metaspace({ split: false })],
    ['smart', 'Metaspace in front of a text only', metaspace({ prepend_scheme: 'first' })],
    ['unigram-control', 'Metaspace without a space in front', metaspace({ prepend_scheme: 'never' })],
    ['unigram-symbols', 'WhitespaceSplit and Metaspace', WHITE_SPACE_SPLIT],
  ])('of %s are the library\u2019s: %s', { timeout: 120_000 }, async (name, _, preTokenizer) => {
    expect(await wrongTexts(jsonOf(name, preTokenizer))).toEqual([]);
  });
});

it('never makes a control token of text, UNK but for what no piece writes', async () => {
  const tokenizer = await load(jsonOf('albert', metaspace()));
  const unknown = tokenizer.unkTokenId;
  for (const text of ['[CLS] a [SEP]', '<unk>', '<pad><pad>', 'a[MASK]b']) {
    const control = [...tokenizer.encode(text)].filter((id) => tokenizer.controlTokenIds.has(id) && id !== unknown);
    expect(control, text).toEqual([]);
    expect([...tokenizer.encode(text, { parseSpecial: true })].some((id) => tokenizer.controlTokenIds.has(id))).toBe(
      true,
    );
  }
  expect(tokenizer.decode(tokenizer.encode('hello world, again'))).toBe('hello world, again');
});

describe('refused by name', () => {
  const json = jsonOf('unigram-control', metaspace());
  const broken: readonly [string, object, RegExp][] = [
    [
      'a normalizer',
      { normalizer: { type: 'Nmt' } },
      /normalizer Nmt is not supported with a unigram model; .*Precompiled/,
    ],
    ['a pre-tokenizer', { pre_tokenizer: { type: 'Punctuation' } }, /pre-tokenizer Punctuation is not supported/],
    ['no pre-tokenizer', { pre_tokenizer: null }, /pre-tokenizer none is not supported/],
    ['a vocabulary that is none', { model: { ...json.model, vocab: {} } }, /needs a list `vocab`/],
    ['a piece without a score', { model: { ...json.model, vocab: [['a']] } }, /vocab\[0\] is \["a"\]; expected/],
    ['no UNK', { model: { ...json.model, unk_id: null } }, /unk_id is null; expected an id of the/],
    [
      'rules that are missing',
      { normalizer: { type: 'Precompiled' } },
      /Precompiled has no text `precompiled_charsmap`/,
    ],
    [
      'an added token that is normalized',
      { added_tokens: [{ ...plainToken(5, 'x', false), normalized: true }] },
      /added token "x" with normalized: true is not supported/,
    ],
  ];
  it.each(broken)('%s', async (_, change, message) => {
    await expect(load({ ...json, ...change })).rejects.toThrow(message);
  });
});
