/** Examples that a data set has more than once, found by hash within a fixed amount of memory. */
import { hash } from 'node:crypto';
import { conversationText, type ExampleContent } from '../formats.ts';

const FIRST_SLOTS = 2 ** 12;
/** 48 MiB: 8 bytes of hash and 4 of line number each. */
const MAX_SLOTS = 2 ** 22;
const MAX_LOAD = 0.875;

/** The first 64 bits of SHA-256 over everything that is learned from. */
function hashOf(content: ExampleContent): Buffer {
  const bytes =
    content.kind === 'messages'
      ? conversationText(content)
      : Buffer.concat([
          new Uint8Array(content.inputIds.buffer, content.inputIds.byteOffset, content.inputIds.byteLength),
          new Uint8Array(content.labels.buffer, content.labels.byteOffset, content.labels.byteLength),
        ]);
  return hash('sha256', bytes, 'buffer');
}

/**
 * Remembers examples by 64 bits of their hash: two different ones among the 3.7 million that fit are taken for the same with a chance of
 * one in a million. Once full, later examples are compared with those remembered, and are not remembered themselves.
 */
export class DuplicateFinder {
  #low = new Uint32Array(FIRST_SLOTS);
  #high = new Uint32Array(FIRST_SLOTS);
  /** 0: the slot is free. */
  #lines = new Uint32Array(FIRST_SLOTS);
  #count = 0;

  /** The line of the first example with this content; null: it is the first. */
  firstLine(content: ExampleContent, line: number): number | null {
    const digest = hashOf(content);
    const [low, high] = [digest.readUInt32LE(0), digest.readUInt32LE(4)];
    const slot = this.#slotOf(low, high);
    const found = this.#lines[slot] as number;
    if (found !== 0) return found;
    // At most 3,670,016 examples are remembered.
    if (this.#count >= this.#lines.length * MAX_LOAD) {
      if (this.#lines.length >= MAX_SLOTS) return null;
      this.#grow();
    }
    this.#put(this.#slotOf(low, high), low, high, line);
    this.#count += 1;
    return null;
  }

  /** The slot that holds this hash, or the free one where it belongs. Linear probing: there is always a free one. */
  #slotOf(low: number, high: number): number {
    const mask = this.#lines.length - 1;
    let slot = low & mask;
    while (this.#lines[slot] !== 0 && (this.#low[slot] !== low || this.#high[slot] !== high)) slot = (slot + 1) & mask;
    return slot;
  }

  #put(slot: number, low: number, high: number, line: number): void {
    this.#low[slot] = low;
    this.#high[slot] = high;
    this.#lines[slot] = line;
  }

  #grow(): void {
    const [low, high, lines] = [this.#low, this.#high, this.#lines];
    this.#low = new Uint32Array(lines.length * 2);
    this.#high = new Uint32Array(lines.length * 2);
    this.#lines = new Uint32Array(lines.length * 2);
    for (let slot = 0; slot < lines.length; slot++) {
      const [a, b, line] = [low[slot] as number, high[slot] as number, lines[slot] as number];
      if (line !== 0) this.#put(this.#slotOf(a, b), a, b, line);
    }
  }
}
