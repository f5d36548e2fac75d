/** The addon's encoders give the ids of the JavaScript ones, which other tests hold to the libraries' ids. */
import { describe, expect, it } from 'vitest';
import { readGgufTokenizer, testGgufPath } from '../../../test/fixtures/gguf-header.ts';
import { randomTexts } from '../../../test/fixtures/random-texts.ts';
import {
  type ModelName,
  PACKAGED_MODELS,
  SMALL_MODELS,
  sentencePieceFile,
  sentencePieceTexts,
} from '../../../test/fixtures/sentencepiece.ts';
import {
  corpus,
  type PackagedTokenizer,
  packagedAsGguf,
  packagedFolder,
  tinyMetadata,
} from '../../../test/fixtures/tokenizers.ts';
import type { GgufTokenizerMetadata, TokenizerSource } from '../../engine/engine.ts';
import { nativeEncoders } from '../../engine/native-encoders.ts';
import type { SentencePieceDefinition } from '../definition.ts';
import { loadTokenizer } from '../load.ts';
import { preTokenizerSpec, SUPPORTED_PRE_TOKENIZERS } from '../pre-tokenizers.ts';
import { readSentencePieceModel } from '../sentencepiece/read-model.ts';
import { SentencePieceTokenizer } from '../sentencepiece-tokenizer.ts';
import type { EncodeOptions, Tokenizer } from '../tokenizer.ts';

const encoders = nativeEncoders();
if (encoders === null) throw new Error('the addon is not built; run `npm run build`');
const random = randomTexts(5000);
const texts = [...corpus(), corpus().join('\n'), ...random];
const MARK = '\ufdd3';
const WAYS: readonly EncodeOptions[] = [
  {},
  { after: 'text' },
  { after: 'control', addSpecialTokens: true },
  { parseSpecial: true },
  { parseSpecial: true, literalMark: MARK, after: 'text' },
];

function expectSame(reference: Tokenizer, native: Tokenizer, list: readonly string[]): void {
  expect([reference.encoder, native.encoder]).toEqual(['javascript', 'native']);
  const wrong = list.filter((text, index) => {
    const options = WAYS[index % WAYS.length];
    // A mark inside what would be a control token.
    const marked = options?.literalMark === undefined ? text : text.replaceAll('<', `<${MARK}`);
    return reference.encode(marked, options).join() !== native.encode(marked, options).join();
  });
  expect(wrong.slice(0, 5).map((text) => JSON.stringify(text))).toEqual([]);
}

const folder = (name: PackagedTokenizer): TokenizerSource => ({ kind: 'huggingface', folder: packagedFolder(name) });
const SOURCES: readonly (readonly [string, () => TokenizerSource])[] = [
  ["llama2's folder", () => folder('llama2')],
  ["llama3's folder", () => folder('llama3')],
  ["qwen3's folder", () => folder('qwen3')],
  ['llama2 as GGUF', () => ({ kind: 'gguf', metadata: packagedAsGguf('llama2') })],
  ['SmolLM2 as GGUF', () => ({ kind: 'gguf', metadata: readGgufTokenizer(testGgufPath()) })],
];

describe.each(SOURCES)('%s', (_, source) => {
  it('has the same ids', { timeout: 120_000 }, async () => {
    expectSame(await loadTokenizer(source()), await loadTokenizer(source(), encoders), texts);
  });
});

/** Every two bytes make a token, so that every border between words shows in the ids. */
function pairMetadata(pre: string): GgufTokenizerMetadata {
  const bytes = tinyMetadata().tokens.filter((token) => [...token].length === 1);
  const merges = bytes.flatMap((left) => bytes.map((right) => `${left} ${right}`));
  const tokens = [...bytes, ...merges.map((merge) => merge.replace(' ', ''))];
  const none = { tokenTypes: null, bosTokenId: null, eosTokenId: null, unknownTokenId: null, paddingTokenId: null };
  return tinyMetadata({ pre, tokens, merges, ...none });
}

const DISTINCT = new Map(SUPPORTED_PRE_TOKENIZERS.map((pre) => [JSON.stringify(preTokenizerSpec(pre).patterns), pre]));

describe.each([...DISTINCT.values()])('the pre-tokenizer %s', (pre) => {
  it('cuts at the same places', { timeout: 60_000 }, async () => {
    const source = { kind: 'gguf', metadata: pairMetadata(pre) } as const;
    expectSame(await loadTokenizer(source), await loadTokenizer(source, encoders), random.slice(0, 2000));
  });
});

const BPE_MODELS = [...PACKAGED_MODELS, ...SMALL_MODELS].filter((name) => /^(bpe|llama2)/.test(name));

function definitionOf(name: ModelName): SentencePieceDefinition {
  const model = readSentencePieceModel(sentencePieceFile(name), name);
  return {
    model,
    addedTokens: [],
    turnTokenIds: [],
    unreachableTokenIds: [],
    prefixAfterControl: true,
    bosTokenId: model.bosId,
    eosTokenId: model.eosId,
    padTokenId: model.padId,
    unkTokenId: model.unkId,
    endOfGenerationTokenIds: [],
    prefixTokenIds: [],
    suffixTokenIds: [],
    chatTemplate: null,
  };
}

describe.each(BPE_MODELS)('the sentencepiece model %s', (name) => {
  it('has the same ids', { timeout: 120_000 }, () => {
    const definition = definitionOf(name);
    const list = [...sentencePieceTexts(), ...texts];
    expectSame(new SentencePieceTokenizer(definition), new SentencePieceTokenizer(definition, encoders), list);
  });
});

it('compares every kind of sentencepiece model', () => {
  expect(BPE_MODELS.length).toBe(6);
});

it('leaves unigram models to JavaScript', () => {
  expect(new SentencePieceTokenizer(definitionOf('albert'), encoders).encoder).toBe('javascript');
});
