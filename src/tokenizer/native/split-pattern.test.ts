import { describe, expect, it } from 'vitest';
import { GPT2_PATTERN } from '../tokenizer-json.ts';
import { nativeSplitPattern } from './split-pattern.ts';
import { complement, unicodeRanges } from './unicode-ranges.ts';

describe('unicode ranges', () => {
  it.each(['L', 'N', 'P', 'M', 'Lu', 'White_Space', 'Script=Han'])(
    'of %s are what regular expressions know',
    (name) => {
      const pattern = new RegExp(`^\\p{${name}}$`, 'u');
      const expected = new Uint8Array(0x110000);
      const found = new Uint8Array(0x110000);
      for (let code = 0; code < 0x110000; code++) {
        if (pattern.test(String.fromCodePoint(code))) expected[code] = 1;
      }
      for (const [first, last] of unicodeRanges(name)) found.fill(1, first, last + 1);
      expect(Buffer.compare(found, expected)).toBe(0);
    },
  );

  it('have a complement', () => {
    expect(
      complement([
        [0, 4],
        [7, 0x10ffff],
      ]),
    ).toEqual([[5, 6]]);
    expect(complement([[3, 4]])).toEqual([
      [0, 2],
      [5, 0x10ffff],
    ]);
  });
});

describe('patterns', () => {
  it('are written out', () => {
    expect(nativeSplitPattern('(?:[a-c\\n]|\\/)+?x{1,3}')).toEqual({
      head: '(?:[\\x{61}-\\x{63}\\x{a}-\\x{a}]|\\x{2f})+?\\x{78}{1,3}',
      space: undefined,
    });
    expect(nativeSplitPattern('[^\\]&&-]')?.head).toBe(
      '[^\\x{5d}-\\x{5d}\\x{26}-\\x{26}\\x{26}-\\x{26}\\x{2d}-\\x{2d}]',
    );
  });

  it('give the white space at their end to be treated apart', () => {
    const source = GPT2_PATTERN.replaceAll('\\s', '\\p{White_Space}').replaceAll('\\S', '\\P{White_Space}');
    const pattern = nativeSplitPattern(source);
    expect(pattern?.head.endsWith(']+')).toBe(true);
    expect(pattern?.space).toMatch(/^\[\\x\{9\}-\\x\{d\}\\x\{20\}-\\x\{20\}\\x\{85\}/);
  });

  it.each([
    'a(?=b)',
    '(?<!a)b',
    '(?<name>a)',
    '(?i:a)',
    '^a',
    'a$',
    'a.b',
    '\\ba',
    '\\d',
    '[[a]b]',
    '[]',
    '\\p{Nothing}',
    '(a)\\1',
  ])('that may mean something else are refused: %s', (source) => {
    expect(nativeSplitPattern(source)).toBeNull();
  });
});
