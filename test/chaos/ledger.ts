/** What a client was told. Whatever happens afterwards, it must stay true. */
import { TrainingEvent } from '../../clients/typescript/src/index.ts';

interface Told<Value> {
  readonly value: Value;
  /** `process.hrtime.bigint()` when it arrived. */
  readonly at: bigint;
}

export class Ledger {
  readonly #answers = new Map<string, Told<unknown>>();
  readonly #events = new Map<string, Told<TrainingEvent>[]>();

  /** The answer to a request that is made once, whatever server gives it. */
  async once<Value>(request: string, ask: () => Promise<Value>): Promise<Value> {
    const told = this.#answers.get(request);
    if (told !== undefined) return told.value as Value;
    const value = await ask();
    this.#answers.set(request, { value, at: process.hrtime.bigint() });
    return value;
  }

  /** Whether a request was answered. */
  has(request: string): boolean {
    return this.#answers.has(request);
  }

  /** Answers to requests whose names begin so. */
  answered(beginning: string): readonly unknown[] {
    const matching = [...this.#answers].filter(([request]) => request.startsWith(beginning));
    return matching.map(([, { value }]) => value);
  }

  event(event: TrainingEvent): void {
    const events = this.#events.get(event.job) ?? [];
    events.push({ value: event, at: process.hrtime.bigint() });
    this.#events.set(event.job, events);
  }

  /** Sequence number of the last event of a job that arrived. */
  lastSequence(job: string): number {
    return this.#events.get(job)?.at(-1)?.value.sequence ?? 0;
  }

  get jobs(): readonly string[] {
    return [...this.#events.keys()];
  }

  events(job: string): readonly TrainingEvent[] {
    return (this.#events.get(job) ?? []).map(({ value }) => value);
  }

  /** What had arrived at a moment. */
  before(moment: bigint): Ledger {
    const earlier = new Ledger();
    for (const [request, told] of this.#answers) if (told.at < moment) earlier.#answers.set(request, told);
    for (const [job, events] of this.#events) {
      const told = events.filter(({ at }) => at < moment);
      if (told.length > 0) earlier.#events.set(job, told);
    }
    return earlier;
  }
}

/** Two messages of the contract with the same content. */
export const sameEvent = (one: TrainingEvent, other: TrainingEvent): boolean =>
  Buffer.from(TrainingEvent.encode(one).finish()).equals(Buffer.from(TrainingEvent.encode(other).finish()));
