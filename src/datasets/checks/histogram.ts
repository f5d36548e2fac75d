/** A part of a histogram; both bounds belong to it. */
export interface Bucket {
  readonly from: number;
  readonly to: number;
  readonly examples: number;
}

/** Counts whole numbers in buckets whose upper bounds double: up to `first`, `2 · first`, `4 · first`, … */
export class Histogram {
  readonly #first: number;
  readonly #lowest: number;
  readonly #counts: number[] = [];

  /** @param first Upper bound of the first bucket; its lower one is `lowest`, which no value is below. */
  constructor(first: number, lowest: number) {
    this.#first = first;
    this.#lowest = lowest;
  }

  add(value: number): void {
    const bucket = value <= this.#first ? 0 : Math.ceil(Math.log2(value / this.#first));
    while (this.#counts.length <= bucket) this.#counts.push(0);
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
  }

  /** From the first bucket that holds something to the last. */
  buckets(): Bucket[] {
    const buckets = this.#counts.map((examples, index) => ({
      from: index === 0 ? this.#lowest : this.#first * 2 ** (index - 1) + 1,
      to: this.#first * 2 ** index,
      examples,
    }));
    return buckets.slice(buckets.findIndex(({ examples }) => examples > 0));
  }
}
