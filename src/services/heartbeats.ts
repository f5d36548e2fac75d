import { setTimeout as sleep } from 'node:timers/promises';

/**
 * What the source yields, and null whenever it has yielded nothing for so long.
 * @param open Opens the source; its signal is aborted once nobody reads any more, so that a source that waits ends.
 * @param milliseconds 0: without nulls.
 */
export async function* withHeartbeats<T>(
  open: (signal: AbortSignal) => AsyncGenerator<T, void, undefined>,
  signal: AbortSignal,
  milliseconds: number,
): AsyncGenerator<T | null, void, undefined> {
  const left = new AbortController();
  const source = open(AbortSignal.any([signal, left.signal]));
  try {
    let next = source.next();
    for (;;) {
      const silence = new AbortController();
      const beat = milliseconds === 0 ? [] : [sleep(milliseconds, null, { signal: silence.signal }).catch(() => null)];
      const result = await Promise.race([next, ...beat]).finally(() => silence.abort());
      if (result === null) {
        yield null;
        continue;
      }
      if (result.done) return;
      yield result.value;
      next = source.next();
    }
  } finally {
    left.abort(new Error('nobody reads any more'));
    source.return().catch(() => undefined);
  }
}
