import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { AnswerText, unfinishedCharacter } from './answer-text.ts';

const tokenizer = tinyTokenizer();
const plain = { stopStrings: [], continuation: false, answerPrefix: '' };

/** All text an answer gives out for ids that come in pieces of the given sizes. */
function spoken(answer: AnswerText, ids: Uint32Array, sizes: readonly number[]): string {
  let text = '';
  let at = 0;
  for (const size of [...sizes, ids.length]) {
    text += answer.push(ids.subarray(at, at + size));
    at += size;
  }
  return text + answer.finish();
}

const sizes = fc.array(fc.integer({ min: 1, max: 4 }), { maxLength: 40 });
const text = fc.string({ unit: 'grapheme', maxLength: 30 });

test('however the ids are cut into batches, the text is that of all ids', () => {
  fc.assert(
    fc.property(text, sizes, (value, cuts) => {
      expect(spoken(new AnswerText(tokenizer, plain), tokenizer.encode(value), cuts)).toBe(value);
    }),
  );
});

test('with a stop string the text ends where it begins, however it is cut', () => {
  fc.assert(
    fc.property(
      text,
      fc.string({ unit: 'grapheme', minLength: 1, maxLength: 3 }),
      text,
      sizes,
      (before, stop, after, cuts) => {
        const value = before + stop + after;
        const answer = new AnswerText(tokenizer, { ...plain, stopStrings: [stop] });
        expect(spoken(answer, tokenizer.encode(value), cuts)).toBe(value.slice(0, value.indexOf(stop)));
        expect(answer.matchedStop).toBe(stop);
      },
    ),
  );
});

test('text and trailing bytes together are all bytes of the ids', () => {
  fc.assert(
    fc.property(text, fc.nat(), sizes, (value, cut, cuts) => {
      const all = tokenizer.encode(value);
      const ids = all.subarray(0, cut % (all.length + 1));
      const answer = new AnswerText(tokenizer, plain);
      const given = Buffer.from(spoken(answer, ids, cuts));
      const bytes = Buffer.concat(Array.from(ids, (id) => tokenizer.idToBytes(id)));
      expect(Buffer.concat([given, answer.trailingBytes()])).toEqual(bytes);
    }),
  );
});

test.each([
  [' ', ' fine', 'fine'],
  ['\n', ' fine', ' fine'],
  ['\n\n', '\nfine', 'fine'],
  [' ', '  fine', ' fine'],
])('the prefix %j is cut from %j', (answerPrefix, value, expected) => {
  const answer = new AnswerText(tokenizer, { ...plain, answerPrefix });
  expect(spoken(answer, tokenizer.encode(value), [1])).toBe(expected);
});

describe('unfinishedCharacter', () => {
  test.each([
    [[0x61], []],
    [[0xe4], [0xe4]],
    [
      [0x61, 0xe4, 0xbd],
      [0xe4, 0xbd],
    ],
    [[0xe4, 0xbd, 0xa0], []],
    [
      [0xf0, 0x9f, 0x99],
      [0xf0, 0x9f, 0x99],
    ],
    [[0xc3, 0xa4], []],
    // Continuation bytes without a head, and a byte that starts nothing.
    [[0x80, 0x80, 0x80], []],
    [[0xff], []],
    [[], []],
  ])('%j ends with %j', (bytes, unfinished) => {
    expect([...unfinishedCharacter(Uint8Array.from(bytes))]).toEqual(unfinished);
  });
});
