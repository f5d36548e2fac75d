import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { packagedAsGguf, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { ggufTokenizer } from './gguf.ts';
import { tokenOffsets } from './token-offsets.ts';

const tiny = tinyTokenizer();
const llama2 = ggufTokenizer(packagedAsGguf('llama2'));

describe.each([
  ['byte-level', tiny],
  ['sentencepiece', llama2],
] as const)('%s', (_, tokenizer) => {
  it('covers the decoded text, in order and without gaps, whatever the ids', () => {
    // Byte tokens often: they make characters that are cut, wrong or not ended.
    const id = fc.oneof(fc.nat({ max: 270 }), fc.nat({ max: tokenizer.vocabSize + 5 }));
    fc.assert(
      fc.property(fc.array(id, { maxLength: 30 }), (ids) => {
        const characters = [...tokenizer.decode(ids)];
        const offsets = tokenOffsets(tokenizer, ids);
        expect(offsets).toHaveLength(ids.length);
        let covered = 0;
        for (const { start, end } of offsets) {
          expect(start).toBeGreaterThanOrEqual(0);
          expect(end).toBeGreaterThanOrEqual(start);
          expect([covered - 1, covered]).toContain(start);
          covered = Math.max(covered, end);
        }
        expect(covered).toBe(characters.length);
      }),
      { numRuns: 1000 },
    );
  });

  it('gives each token its own text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 20 }), (text) => {
        const ids = tokenizer.encode(text);
        const characters = [...tokenizer.decode(ids)];
        const offsets = tokenOffsets(tokenizer, ids);
        tokenizer.pieces(ids).forEach((piece, index) => {
          const { start, end } = offsets[index] ?? { start: 0, end: 0 };
          const own = characters.slice(start, end).join('');
          if (!piece.partial) expect([own, ` ${own}`]).toContain(piece.text);
        });
      }),
    );
  });
});

test('bytes of one character all have it; characters are code points', () => {
  const text = 'a你🙂z';
  const ids = tiny.encode(text);
  const pieces = tiny.pieces(ids).map(({ text: shown }) => shown);
  expect(pieces).toEqual(['a', '你', '<0xF0>', '<0x9F>', '<0x99>', '<0x82>', 'z']);
  expect(tokenOffsets(tiny, ids).map(({ start, end }) => [start, end])).toEqual([
    [0, 1],
    [1, 2],
    [2, 3],
    [2, 3],
    [2, 3],
    [2, 3],
    [3, 4],
  ]);
  const broken = [...ids].filter((_, index) => index !== 5);
  expect(tiny.decode(broken)).toBe('a你\ufffdz');
  expect(tokenOffsets(tiny, broken).map(({ end }) => end)).toEqual([1, 2, 3, 3, 3, 4]);
});

test('the space that sentencepiece puts in front is no character of the text', () => {
  const ids = llama2.encode('the cat');
  expect(tokenOffsets(llama2, ids)).toEqual([
    { start: 0, end: 3 },
    { start: 3, end: 7 },
  ]);
  expect(tokenOffsets(llama2, [llama2.vocabSize + 1, ...ids])[0]).toEqual({ start: 0, end: 0 });
});
