/** Strings by their prefixes, over UTF-16 units: an open-addressing hash table of edges. */

const ROOT = 0;
const NONE = -1;

const powerOfTwoFrom = (size: number): number => 2 ** Math.ceil(Math.log2(Math.max(size, 8)));

export class UnitTrie {
  /** Children of the root, which every search begins with. */
  readonly #first: Int32Array;
  /** Node at a slot; NONE where the slot is free. */
  readonly #slots: Int32Array;
  readonly #parents: Int32Array;
  readonly #units: Uint16Array;
  readonly #values: Int32Array;
  #size = 1;

  /** Values are not negative; of a key that stands twice the last value counts. Empty keys are left out. */
  constructor(entries: Iterable<readonly [key: string, value: number]>) {
    const list = [...entries].filter(([key]) => key.length > 0);
    const nodes = list.reduce((sum, [key]) => sum + key.length, 1);
    this.#first = new Int32Array(0x10000).fill(NONE);
    this.#slots = new Int32Array(powerOfTwoFrom(2 * nodes)).fill(NONE);
    this.#parents = new Int32Array(nodes);
    this.#units = new Uint16Array(nodes);
    this.#values = new Int32Array(nodes).fill(NONE);
    for (const [key, value] of list) this.#insert(key, value);
  }

  /** The node every search starts from. */
  readonly root = ROOT;

  /** The child of a node, -1 where there is none. */
  step(node: number, unit: number): number {
    if (node === ROOT) return this.#first[unit] as number;
    const slots = this.#slots;
    const mask = slots.length - 1;
    for (let slot = hash(node, unit) & mask; ; slot = (slot + 1) & mask) {
      const child = slots[slot] as number;
      if (child === NONE || (this.#parents[child] === node && this.#units[child] === unit)) return child;
    }
  }

  /** The value of the key that ends at a node, -1 where none does. */
  value(node: number): number {
    return this.#values[node] as number;
  }

  /** The longest key at a place of a text; null where none is. */
  longest(text: string, start: number): { readonly value: number; readonly end: number } | null {
    let node = ROOT;
    let value = NONE;
    let end = start;
    for (let at = start; at < text.length; at++) {
      node = this.step(node, text.charCodeAt(at));
      if (node === NONE) break;
      if (this.value(node) === NONE) continue;
      value = this.value(node);
      end = at + 1;
    }
    return value === NONE ? null : { value, end };
  }

  #insert(key: string, value: number): void {
    let node = ROOT;
    for (let at = 0; at < key.length; at++) {
      const unit = key.charCodeAt(at);
      const child = this.step(node, unit);
      node = child === NONE ? this.#add(node, unit) : child;
    }
    this.#values[node] = value;
  }

  #add(parent: number, unit: number): number {
    const child = this.#size++;
    this.#parents[child] = parent;
    this.#units[child] = unit;
    if (parent === ROOT) {
      this.#first[unit] = child;
      return child;
    }
    const mask = this.#slots.length - 1;
    let slot = hash(parent, unit) & mask;
    while (this.#slots[slot] !== NONE) slot = (slot + 1) & mask;
    this.#slots[slot] = child;
    return child;
  }
}

function hash(node: number, unit: number): number {
  const mixed = Math.imul(node, 0x9e3779b1) ^ Math.imul(unit, 0x85ebca6b);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}
