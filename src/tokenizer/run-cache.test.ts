import { expect, it } from 'vitest';
import { RunCache } from './run-cache.ts';

const codes = (text: string, ids: number[]): void => {
  for (const character of text) ids.push(character.codePointAt(0) ?? 0);
};

const direct = (text: string): number[] => Array.from(text, (character) => character.codePointAt(0) ?? 0);

it('gives the same ids again, behind those that are there, and encodes a short text once', () => {
  const cache = new RunCache();
  let calls = 0;
  const encode = (text: string, ids: number[]): void => {
    calls += 1;
    codes(text, ids);
  };
  const ids = [7];
  for (const text of ['user\n', '你好\ud83d\ude00', 'user\n', '', 'user\n', '你好\ud83d\ude00'])
    cache.encode(text, ids, encode);
  expect(ids).toEqual([7, ...['user\n', '你好\ud83d\ude00', 'user\n', 'user\n', '你好\ud83d\ude00'].flatMap(direct)]);
  expect(calls).toBe(3);
});

it('does not grow without end, and encodes long texts each time', () => {
  const cache = new RunCache();
  for (let number = 0; number < 5000; number++) {
    const ids: number[] = [];
    cache.encode(`text ${number % 1500}`, ids, codes);
    expect(ids).toEqual(direct(`text ${number % 1500}`));
  }
  const seen: string[] = [];
  for (let again = 0; again < 3; again++) cache.encode('x'.repeat(200), [], (text) => void seen.push(text));
  expect(seen).toHaveLength(3);
});
