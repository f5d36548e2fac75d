/** Stop strings over a stream of text: no part of a matched stop string is ever given out. */

export interface StopMatch {
  /** Text that is safe to give out. */
  readonly text: string;
  /** The stop string that matched; everything from its first character on is dropped. */
  readonly matched: string | null;
}

/**
 * Matches as if the text came character by character: the stop string that is complete first wins; of those complete at
 * the same character, the one that started first. The answer does not depend on how the text is cut into chunks.
 */
export class StopStringMatcher {
  readonly #stops: readonly string[];
  #held = '';
  #matched: string | null = null;

  /** @throws RangeError for an empty stop string */
  constructor(stops: readonly string[]) {
    if (stops.some((stop) => stop.length === 0)) throw new RangeError('a stop string must have at least one character');
    this.#stops = stops;
  }

  push(chunk: string): StopMatch {
    if (this.#matched !== null) return { text: '', matched: this.#matched };
    const buffer = this.#held + chunk;
    let start = -1;
    let end = Number.POSITIVE_INFINITY;
    for (const stop of this.#stops) {
      const index = buffer.indexOf(stop);
      if (index < 0) continue;
      const stopEnd = index + stop.length;
      if (stopEnd < end || (stopEnd === end && index < start)) {
        start = index;
        end = stopEnd;
        this.#matched = stop;
      }
    }
    if (this.#matched !== null) {
      this.#held = '';
      return { text: buffer.slice(0, start), matched: this.#matched };
    }
    const hold = this.#holdLength(buffer);
    this.#held = buffer.slice(buffer.length - hold);
    return { text: buffer.slice(0, buffer.length - hold), matched: null };
  }

  /** The text still held back, once no more comes. */
  flush(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  /** Length of the longest end of the buffer that a stop string starts with. */
  #holdLength(buffer: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, buffer.length); length > longest; length--) {
        if (stop.startsWith(buffer.slice(buffer.length - length))) longest = length;
      }
    }
    return longest;
  }
}
