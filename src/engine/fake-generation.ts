/** Generations of the fake engine: ids that a test gives, one at a time. */
import { setImmediate } from 'node:timers/promises';
import type { GeneratedTokens, GenerationRun, SamplingConfig } from './engine.ts';
import type { EngineError } from './errors.ts';
import { EventQueue } from './fake-events.ts';

/** Awaited before each token, which counts from 0: what it waits for holds the run, what it throws fails it. */
export type BeforeToken = (index: number) => void | Promise<void>;

const LOGPROB = -0.5;

export class FakeGenerationRun implements GenerationRun {
  readonly #queue = new EventQueue<GeneratedTokens>();
  readonly #stopped = Promise.withResolvers<void>();
  #cancelled = false;

  /** Draws `ids` from the beginning, again and again, until `sampling` ends it. */
  constructor(ids: readonly number[], sampling: SamplingConfig, beforeToken: BeforeToken) {
    void this.#run(ids, sampling, beforeToken).catch((error: unknown) => this.#queue.fail(error));
  }

  async *tokens(): AsyncGenerator<GeneratedTokens> {
    try {
      yield* this.#queue.read();
    } finally {
      this.cancel();
    }
  }

  cancel(): void {
    this.#cancelled = true;
    this.#stopped.resolve();
  }

  /** Ends the run with an error, where it has not ended yet. */
  fail(error: EngineError): void {
    this.#queue.end(error);
    this.cancel();
  }

  async #run(ids: readonly number[], sampling: SamplingConfig, beforeToken: BeforeToken): Promise<void> {
    for (let index = 0; ; index++) {
      await Promise.race([this.#stopped.promise, setImmediate().then(() => beforeToken(index))]);
      if (this.#cancelled) return this.#end([], 'cancelled', null);
      const id = ids[index % ids.length];
      if (id === undefined) return this.#end([], 'length', null);
      if (sampling.eosTokenIds.includes(id)) return this.#end([], 'eos', id);
      if (index + 1 >= sampling.maxNewTokens) return this.#end([id], 'length', null);
      this.#queue.push(this.#batch([id], null, null));
    }
  }

  #end(ids: readonly number[], reason: GeneratedTokens['finishReason'], eosTokenId: number | null): void {
    this.#queue.push(this.#batch(ids, reason, eosTokenId));
    this.#queue.end(null);
  }

  #batch(
    ids: readonly number[],
    finishReason: GeneratedTokens['finishReason'],
    eosTokenId: number | null,
  ): GeneratedTokens {
    const logprobs = new Float32Array(ids.length).fill(LOGPROB);
    return { tokenIds: Uint32Array.from(ids), logprobs, finishReason, eosTokenId };
  }
}
