/** Pieces of a data set that are rendered at the same time: one alone is too little for several workers. */
import { availableParallelism } from 'node:os';

/**
 * Workers that render a data set: one for each processor, since the thread that waits for them is idle. At least two; at most eight, as each
 * holds a vocabulary and one process reads for all of them.
 */
export const RENDER_WORKERS = Math.max(2, Math.min(8, availableParallelism()));

/** Pieces at once: one for each worker, and one that is ready when the first of them is done. */
const PIECES = RENDER_WORKERS + 1;

/**
 * What `work` makes of each item, in order, with several at work at once. Leaving the loop ends the reading; work that is under way is not
 * waited for.
 * @throws what `items` and `work` throw, in its place
 */
export async function* ahead<Item, Result>(
  items: AsyncIterable<Item>,
  work: (item: Item) => Promise<Result>,
): AsyncGenerator<Result, void, undefined> {
  const iterator = items[Symbol.asyncIterator]();
  const running: Promise<Result>[] = [];
  let done = false;
  try {
    for (;;) {
      while (!done && running.length < PIECES) {
        const next = await iterator.next();
        if (next.done) done = true;
        else {
          const result = work(next.value);
          // One that fails before its turn must not count as unhandled.
          result.catch(() => undefined);
          running.push(result);
        }
      }
      const first = running.shift();
      if (first === undefined) return;
      yield await first;
    }
  } finally {
    await iterator.return?.();
  }
}
