/** Events between a fake run and its reader: kept until they are read, so that a slow reader holds nobody up. */
import { EngineError } from './errors.ts';

export class EventQueue<T extends object> {
  readonly #items: T[] = [];
  /** Set once nothing follows; with the error, where there was one. */
  #end: { readonly error: EngineError | null } | null = null;
  #wake: (() => void) | null = null;

  get ended(): boolean {
    return this.#end !== null;
  }

  /** Lost after the end. */
  push(item: T): void {
    if (this.#end !== null) return;
    this.#items.push(item);
    this.#wake?.();
  }

  /** Only the first end counts. */
  end(error: EngineError | null): void {
    this.#end ??= { error };
    this.#wake?.();
  }

  /** Ends with whatever was thrown. */
  fail(cause: unknown): void {
    this.end(cause instanceof EngineError ? cause : new EngineError('INTERNAL', String(cause), { cause }));
  }

  /** Every event once, in order; throws the error the run ended with. */
  async *read(): AsyncGenerator<T> {
    for (;;) {
      const item = this.#items.shift();
      if (item !== undefined) {
        yield item;
      } else if (this.#end === null) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      } else {
        if (this.#end.error !== null) throw this.#end.error;
        return;
      }
    }
  }
}
