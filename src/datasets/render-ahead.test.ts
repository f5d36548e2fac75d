import { expect, it } from 'vitest';
import { ahead, RENDER_WORKERS } from './render-ahead.ts';

/** Numbers from 0; says how many were asked for and whether it was left. */
function numbers(count: number) {
  const seen = { taken: 0, left: false };
  async function* items() {
    try {
      for (let n = 0; n < count; n++) {
        seen.taken += 1;
        yield n;
      }
    } finally {
      seen.left = true;
    }
  }
  return { seen, items: items() };
}

it('gives results in order, whichever is ready first, with several at work', async () => {
  const waiting: (() => void)[] = [];
  const { items, seen } = numbers(20);
  const results: number[] = [];
  const reading = (async () => {
    for await (const n of ahead(items, (n) => new Promise<number>((resolve) => waiting.push(() => resolve(n * n))))) {
      results.push(n);
    }
  })();
  let most = 0;
  while (results.length < 20) {
    await new Promise(setImmediate);
    most = Math.max(most, waiting.length);
    // The newest first.
    waiting
      .splice(0)
      .reverse()
      .forEach((finish) => {
        finish();
      });
  }
  await reading;
  expect(results).toEqual(Array.from({ length: 20 }, (_, n) => n * n));
  expect(most).toBe(RENDER_WORKERS + 1);
  expect(seen).toEqual({ taken: 20, left: true });
});

it('a failure arrives in its place and ends the reading; so does leaving the loop', async () => {
  const { items, seen } = numbers(1000);
  const results: number[] = [];
  const failing = async () => {
    const work = async (n: number) => (n >= 5 ? Promise.reject(new Error(`${n}`)) : n);
    for await (const n of ahead(items, work)) results.push(n);
  };
  await expect(failing()).rejects.toThrow('5');
  expect(results).toEqual([0, 1, 2, 3, 4]);
  expect(seen.left).toBe(true);
  expect(seen.taken).toBeLessThan(20);
  const other = numbers(1000);
  for await (const n of ahead(other.items, async (n) => n)) if (n === 3) break;
  expect(other.seen.left).toBe(true);
});
