/** How long to wait before a call is repeated. */
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierError } from './error.ts';
import { Status } from './status.ts';

/** Bounded exponential back-off with jitter. */
export interface RetryOptions {
  /** Failures in a row after which the last one is thrown; 0: never repeat. Default 10. */
  readonly maxAttempts?: number;
  /** First wait in milliseconds; doubles with every failure in a row. Default 100. */
  readonly initialDelayMs?: number;
  /** Longest wait in milliseconds. Default 5000. */
  readonly maxDelayMs?: number;
}

/** Counts failures in a row and waits between them. */
export class Backoff {
  readonly #maxAttempts: number;
  readonly #initialDelayMs: number;
  readonly #maxDelayMs: number;
  #failures = 0;

  constructor(options: RetryOptions = {}) {
    this.#maxAttempts = options.maxAttempts ?? 10;
    this.#initialDelayMs = options.initialDelayMs ?? 100;
    this.#maxDelayMs = options.maxDelayMs ?? 5000;
  }

  /** Something arrived: the next failure is a first one. */
  reset(): void {
    this.#failures = 0;
  }

  /**
   * Waits before the next attempt, at least as long as the server asked for. Throws the error itself where it is not
   * UNAVAILABLE (AIP-194: nothing else is repeated without being asked) or failed too often, CANCELLED where the signal aborts.
   */
  async wait(error: LuthierError, signal: AbortSignal | undefined): Promise<void> {
    if (error.code !== Status.UNAVAILABLE || this.#failures >= this.#maxAttempts) throw error;
    const ceiling = Math.min(this.#maxDelayMs, this.#initialDelayMs * 2 ** this.#failures);
    this.#failures += 1;
    // Half fixed, half random: clients that lost the same server do not come back at once.
    const delay = Math.max(error.retryDelayMs ?? 0, ceiling * (0.5 + Math.random() / 2));
    try {
      await sleep(delay, undefined, signal === undefined ? {} : { signal });
    } catch (cause) {
      throw new LuthierError('the call was cancelled while it waited for the server', {
        code: Status.CANCELLED,
        cause,
      });
    }
  }
}
