import { type IdGenerator, RandomIdGenerator } from '@opentelemetry/sdk-trace';

/** Random ids, but for traces whose id was chosen: a job's trace is found by the job's id. */
export class ChosenIds implements IdGenerator {
  readonly #random = new RandomIdGenerator();
  #next: string | null = null;

  /** Runs an action in which the first new trace gets an id: 32 hexadecimal digits, not all zero. */
  withTraceId<Result>(traceId: string, action: () => Result): Result {
    this.#next = traceId;
    try {
      return action();
    } finally {
      this.#next = null;
    }
  }

  generateTraceId(): string {
    const chosen = this.#next;
    this.#next = null;
    return chosen ?? this.#random.generateTraceId();
  }

  generateSpanId(): string {
    return this.#random.generateSpanId();
  }
}
