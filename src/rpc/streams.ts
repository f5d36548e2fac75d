import type { Readable, Writable } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import type { LuthierError } from '../errors/luthier-error.ts';

/** Settles with `promise`, or rejects with the signal's reason as soon as it is aborted. */
export function untilAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  if (signal.aborted) {
    promise.catch(() => undefined);
    return Promise.reject(signal.reason);
  }
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

/** What happens to a client that reads nothing although there is something. */
export interface StallPolicy<T> {
  /** How long it may. */
  readonly milliseconds: number;
  /** The end of its stream. @param last What was written last. */
  readonly error: (last: T) => LuthierError;
}

/** Until the stream takes more. A call that dies never drains: the signal ends the wait. */
async function drained<T>(stream: Writable, signal: AbortSignal, last: T, stall: StallPolicy<T> | null): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  stream.once('drain', resolve);
  const timer = stall && setTimeout(() => reject(stall.error(last)), stall.milliseconds);
  try {
    await untilAborted(promise, signal);
  } finally {
    if (timer) clearTimeout(timer);
    stream.off('drain', resolve);
  }
}

/**
 * Writes what the handler yields, one after another: while the client does not read, nothing more is asked for. However it
 * ends, the handler's generator is closed, so that its `finally` blocks run. That close is not waited for: a generator
 * may stand at an await that knows no signal.
 * @param stall Null: a client may read as slowly as it likes.
 * @throws the signal's reason, what the handler threw, or the stall's error
 */
export async function writeAll<T>(
  stream: Writable,
  responses: AsyncIterable<T>,
  serialize: (response: T) => Buffer,
  signal: AbortSignal,
  stall: StallPolicy<T> | null = null,
): Promise<void> {
  const iterator = responses[Symbol.asyncIterator]();
  let done = false;
  try {
    for (;;) {
      const next = await untilAborted(Promise.resolve(iterator.next()), signal);
      if (next.done) {
        done = true;
        return;
      }
      if (!stream.write(serialize(next.value))) await drained(stream, signal, next.value, stall);
    }
  } finally {
    if (!done) iterator.return?.()?.then(undefined, () => undefined);
  }
}

/**
 * What the client sends, as it is asked for: grpc-js reads ahead by a bounded number of messages and then holds the client back.
 * @throws the signal's reason where the client goes away before it has sent everything
 */
export async function* readAll<T>(stream: Readable, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  try {
    for await (const message of stream.iterator({ destroyOnReturn: false })) yield message as T;
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  }
  // A client that resets the stream looks at first as if it had sent everything; that it went away is known one turn later.
  await setImmediate();
  signal.throwIfAborted();
}
