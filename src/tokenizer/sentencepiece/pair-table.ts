/** A map from two integers to one, in typed arrays with open addressing. */

const NONE = -1;

export class PairTable {
  #keys: Int32Array;
  #values: Int32Array;
  #size = 0;

  constructor(capacity = 1024) {
    const slots = 2 ** Math.ceil(Math.log2(capacity * 2));
    this.#keys = new Int32Array(slots * 2);
    this.#values = new Int32Array(slots).fill(NONE);
  }

  /** -1 where the pair has no value. */
  get(left: number, right: number): number {
    const keys = this.#keys;
    const mask = this.#values.length - 1;
    for (let slot = hash(left, right) & mask; ; slot = (slot + 1) & mask) {
      const value = this.#values[slot] as number;
      if (value === NONE || (keys[2 * slot] === left && keys[2 * slot + 1] === right)) return value;
    }
  }

  /** `value` is not negative. */
  set(left: number, right: number, value: number): void {
    if (2 * (this.#size + 1) > this.#values.length) this.#grow();
    if (this.#put(left, right, value)) this.#size += 1;
  }

  #put(left: number, right: number, value: number): boolean {
    const mask = this.#values.length - 1;
    let slot = hash(left, right) & mask;
    while (this.#values[slot] !== NONE) {
      if (this.#keys[2 * slot] === left && this.#keys[2 * slot + 1] === right) {
        this.#values[slot] = value;
        return false;
      }
      slot = (slot + 1) & mask;
    }
    this.#keys[2 * slot] = left;
    this.#keys[2 * slot + 1] = right;
    this.#values[slot] = value;
    return true;
  }

  #grow(): void {
    const [keys, values] = [this.#keys, this.#values];
    this.#keys = new Int32Array(keys.length * 2);
    this.#values = new Int32Array(values.length * 2).fill(NONE);
    values.forEach((value, slot) => {
      if (value !== NONE) this.#put(keys[2 * slot] as number, keys[2 * slot + 1] as number, value);
    });
  }
}

function hash(left: number, right: number): number {
  const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
