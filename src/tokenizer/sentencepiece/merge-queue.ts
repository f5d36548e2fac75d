/** A binary heap of numbers, smallest first. */
export class MergeQueue {
  #items = new Float64Array(64);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(item: number): void {
    if (this.#size === this.#items.length) {
      const grown = new Float64Array(2 * this.#size);
      grown.set(this.#items);
      this.#items = grown;
    }
    const items = this.#items;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = items[parent] as number;
      if (above <= item) break;
      items[at] = above;
      at = parent;
    }
    items[at] = item;
  }

  /** The smallest, removed; NaN where the queue is empty. */
  pop(): number {
    if (this.#size === 0) return Number.NaN;
    const items = this.#items;
    const top = items[0] as number;
    const item = items[--this.#size] as number;
    const size = this.#size;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) break;
      if (child + 1 < size && (items[child + 1] as number) < (items[child] as number)) child += 1;
      const below = items[child] as number;
      if (below >= item) break;
      items[at] = below;
      at = child;
    }
    items[at] = item;
    return top;
  }
}
