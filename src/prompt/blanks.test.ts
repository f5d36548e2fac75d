import { expect, it } from 'vitest';
import { strip, stripEnd } from './blanks.ts';

it("removes what Python's str.strip removes", () => {
  // [chr(c) for c in range(0x110000) if chr(c).isspace()]
  const python = [
    9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201,
    8202, 8232, 8233, 8239, 8287, 12288,
  ];
  const removed = Array.from({ length: 0x10000 }, (_, code) => code).filter(
    (code) => strip(`${String.fromCharCode(code)}a`) === 'a',
  );
  expect(removed).toEqual(python);
  expect(strip(' \n a b\u3000')).toBe('a b');
  expect(stripEnd(' a \t')).toBe(' a');
  expect(strip('\u2003 ')).toBe('');
});

it('takes time in proportion to the text', () => {
  const blanks = ' '.repeat(4_000_000);
  expect(strip(`a${blanks}b`)).toHaveLength(4_000_002);
});
