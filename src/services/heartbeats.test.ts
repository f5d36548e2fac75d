import { expect, test } from 'vitest';
import { withHeartbeats } from './heartbeats.ts';

const never = new AbortController().signal;

test('a source is passed on, with null where it is silent', async () => {
  const go = Promise.withResolvers<void>();
  const source = async function* () {
    yield 1;
    await go.promise;
    yield 2;
  };
  const seen: (number | null)[] = [];
  for await (const value of withHeartbeats(source, never, 5)) {
    seen.push(value);
    if (seen.length === 4) go.resolve();
  }
  expect(seen.slice(0, 4)).toEqual([1, null, null, null]);
  expect(seen.filter((value) => value !== null)).toEqual([1, 2]);
});

test('without heartbeats nothing is added, and what fails fails', async () => {
  const source = async function* () {
    yield 1;
    throw new Error('broken');
  };
  const reading = withHeartbeats(source, never, 0);
  expect(await reading.next()).toEqual({ done: false, value: 1 });
  await expect(reading.next()).rejects.toThrow('broken');
});

test('a source that waits is told when nobody reads any more', async () => {
  const closed = Promise.withResolvers<void>();
  const source = async function* (signal: AbortSignal) {
    try {
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      yield 1;
    } finally {
      closed.resolve();
    }
  };
  const reading = withHeartbeats(source, never, 5);
  expect((await reading.next()).value).toBeNull();
  await reading.return();
  await closed.promise;
});
