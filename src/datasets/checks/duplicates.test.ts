import { expect, it } from 'vitest';
import type { ExampleContent } from '../formats.ts';
import { DuplicateFinder } from './duplicates.ts';
import { Histogram } from './histogram.ts';

const saying = (content: string): ExampleContent => ({ kind: 'messages', messages: [{ role: 'user', content }] });
const tokens = (ids: number[], labels: number[]): ExampleContent => ({
  kind: 'tokens',
  inputIds: Uint32Array.from(ids),
  labels: Int32Array.from(labels),
});

it('names the first of its kind, also after the table has grown several times', () => {
  const finder = new DuplicateFinder();
  const count = 20_000;
  for (let line = 1; line <= count; line++) expect(finder.firstLine(saying(`text ${line}`), line)).toBeNull();
  for (let line = 1; line <= count; line++) expect(finder.firstLine(saying(`text ${line}`), count + line)).toBe(line);
});

it('what differs in roles, weights, ids or labels only is no duplicate', () => {
  const finder = new DuplicateFinder();
  const different: ExampleContent[] = [
    saying('a'),
    { kind: 'messages', messages: [{ role: 'assistant', content: 'a' }] },
    { kind: 'messages', messages: [{ role: 'assistant', content: 'a', weight: 0 }] },
    tokens([1, 2], [1, 2]),
    tokens([1, 2], [-100, 2]),
    tokens([1, 3], [1, 2]),
  ];
  expect(different.map((content, index) => finder.firstLine(content, index + 1))).toEqual(different.map(() => null));
  expect(different.map((content) => finder.firstLine(content, 99))).toEqual(different.map((_, index) => index + 1));
});

it('every value is counted in the bucket whose bounds hold it', () => {
  const values = [1, 15, 16, 17, 32, 33, 64, 65, 1000];
  const histogram = new Histogram(16, 1);
  for (const value of values) histogram.add(value);
  for (const { from, to, examples } of histogram.buckets()) {
    expect(values.filter((value) => value >= from && value <= to)).toHaveLength(examples);
  }
  expect(histogram.buckets().reduce((sum, { examples }) => sum + examples, 0)).toBe(values.length);
  expect(new Histogram(16, 1).buckets()).toEqual([]);
});
