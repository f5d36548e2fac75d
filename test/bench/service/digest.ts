/** What a reader saw of a job, in a form that can be compared: a hash over every event's every field, and the order of the events. */
import { createHash } from 'node:crypto';
import type { TrainingEvent } from '../../../clients/typescript/src/index.ts';

/** JSON with keys in order; numbers that JSON does not have, and times, are kept apart from each other. */
function canonicalJson(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'number') return Object.is(value, -0) ? '-0' : String(value);
  if (value instanceof Date) return `Date(${value.getTime()})`;
  if (value instanceof Uint8Array) return `Bytes(${Buffer.from(value).toString('hex')})`;
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'undefined';
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${fields.map(([key, field]) => `${JSON.stringify(key)}:${canonicalJson(field)}`).join(',')}}`;
}

export interface Seen {
  readonly events: number;
  /** Of all events in the order in which they came; hex. */
  readonly sha256: string;
  /** Whether the sequence numbers were 1, 2, 3, ... */
  readonly gapless: boolean;
}

/** Takes events as they come. */
export class Digest {
  readonly #hash = createHash('sha256');
  #events = 0;
  #last = 0;
  #gapless = true;

  /** Sequence number of the last event. */
  get last(): number {
    return this.#last;
  }

  add(event: TrainingEvent): void {
    this.#events += 1;
    this.#last = event.sequence;
    this.#gapless &&= event.sequence === this.#events;
    this.#hash.update(`${canonicalJson(event)}\n`);
  }

  /** Once, after the last event. */
  seen(): Seen {
    return { events: this.#events, sha256: this.#hash.digest('hex'), gapless: this.#gapless };
  }
}
