/** Ids and texts equal those of the Python library; `test/parity/make_sentencepiece.py` makes the expectations. */
import { describe, expect, it } from 'vitest';
import {
  expectations,
  idsHash,
  type ModelName,
  PACKAGED_MODELS,
  randomIds,
  SMALL_MODELS,
  sentencePieceFile,
  sentencePieceTexts,
  textHash,
} from '../../../test/fixtures/sentencepiece.ts';
import { DetokenizerStream } from '../detokenizer-stream.ts';
import { SentencePieceTokenizer } from '../sentencepiece-tokenizer.ts';
import { readSentencePieceModel } from './read-model.ts';

function tokenizerOf(name: ModelName): SentencePieceTokenizer {
  const model = readSentencePieceModel(sentencePieceFile(name), name);
  return new SentencePieceTokenizer({
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
  });
}

const texts = sentencePieceTexts();

describe.each([...PACKAGED_MODELS, ...SMALL_MODELS])('%s', (name) => {
  const tokenizer = tokenizerOf(name);
  const expected = expectations(name);
  const skipped = { skipSpecialTokens: true };

  it('gives the ids of the library', { timeout: 60_000 }, () => {
    const wrong = texts.slice(0, expected.ids.length).filter((text, index) => {
      return idsHash(tokenizer.encode(text)) !== expected.ids[index];
    });
    expect(wrong.map((text) => text.slice(0, 200))).toEqual([]);
  });

  it('gives the texts of the library, at once and id by id', { timeout: 60_000 }, () => {
    const sequences = [...texts.slice(0, expected.texts.length).map((text) => tokenizer.encode(text))];
    const hashes = [...expected.texts, ...expected.random];
    const wrong = [...sequences, ...randomIds(tokenizer.vocabSize)].filter((ids, index) => {
      const stream = new DetokenizerStream(tokenizer, skipped);
      const streamed = Array.from(ids, (id) => stream.push([id])).join('') + stream.flush();
      const text = tokenizer.decode(ids, skipped);
      return textHash(text) !== hashes[index] || streamed !== text;
    });
    expect(wrong).toEqual([]);
  });
});

it('compares enough texts', () => {
  expect(PACKAGED_MODELS.every((name) => expectations(name).ids.length > 5000)).toBe(true);
});
