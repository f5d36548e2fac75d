import type { Labels, Sample } from './exposition.ts';

/** Counts of values up to bounds, as Prometheus has them. */
export class Histogram {
  readonly #bounds: readonly number[];
  /** Of values above the bound before and not above this one; the last: above all. */
  readonly #counts: number[];
  #sum = 0;

  /** @param bounds Ascending. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
    this.#counts = Array.from({ length: bounds.length + 1 }, () => 0);
  }

  observe(value: number): void {
    const found = this.#bounds.findIndex((bound) => value <= bound);
    const bucket = found < 0 ? this.#bounds.length : found;
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#sum += value;
  }

  /** Buckets (each with all below it), sum and count. */
  samples(labels: Labels = {}): Sample[] {
    let count = 0;
    const buckets = this.#counts.map((own, index): Sample => {
      count += own;
      const bound = this.#bounds[index];
      return {
        suffix: '_bucket',
        labels: { ...labels, le: bound === undefined ? '+Inf' : String(bound) },
        value: count,
      };
    });
    return [...buckets, { suffix: '_sum', labels, value: this.#sum }, { suffix: '_count', labels, value: count }];
  }
}
