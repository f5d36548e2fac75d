import { LuthierError } from '../errors/luthier-error.ts';

/** Bounds how many generations are under way at once. */
export class GenerationSlots {
  readonly #most: number;
  #active = 0;

  constructor(most: number) {
    this.#most = most;
  }

  get active(): number {
    return this.#active;
  }

  /**
   * Takes a slot.
   * @returns Gives it back; idempotent.
   * @throws LuthierError SERVER_BUSY, which may be repeated
   */
  take(): () => void {
    if (this.#active >= this.#most) {
      throw new LuthierError(
        'SERVER_BUSY',
        `${this.#most} generations are under way, which is this server's limit; repeat when one has ended`,
      );
    }
    this.#active += 1;
    let held = true;
    return () => {
      if (held) this.#active -= 1;
      held = false;
    };
  }
}
