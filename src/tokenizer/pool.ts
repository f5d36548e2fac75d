/** Encoding that never blocks the event loop for long: small texts inline, large ones on worker threads. */
import type { TokenizerSource } from '../engine/engine.ts';
import { chunksBySize, concatenate, lengthsOf, offsetsOf, type TokenBatch } from './token-batch.ts';
import type { EncodeOptions, Tokenizer } from './tokenizer.ts';
import { WorkerPool, type WorkerPoolOptions } from './worker-pool.ts';

/** Characters (UTF-16 units) that are encoded inline: 10 to 30 ms at the slowest measured rate. */
export const INLINE_CHARACTERS = 16_384;

/** Characters for one request to a worker: large against the cost of a message, small against a data set. */
export const CHUNK_CHARACTERS = 131_072;

export interface EncodeRequest {
  readonly texts: readonly string[];
  readonly options: EncodeOptions;
}

export class TokenizerPool {
  readonly tokenizer: Tokenizer;
  readonly #pool: WorkerPool<EncodeRequest, TokenBatch>;

  /** `source` is what `tokenizer` was built from; each worker builds its own. */
  constructor(tokenizer: Tokenizer, source: TokenizerSource, options: WorkerPoolOptions = {}) {
    this.tokenizer = tokenizer;
    this.#pool = new WorkerPool(new URL('./encode-worker.ts', import.meta.url), source, options);
  }

  async encode(text: string, options: EncodeOptions = {}): Promise<Uint32Array> {
    if (text.length <= INLINE_CHARACTERS) return this.tokenizer.encode(text, options);
    return (await this.#pool.run({ texts: [text], options })).ids;
  }

  /** Encodes texts in order, on all workers. */
  async encodeBatch(texts: readonly string[], options: EncodeOptions = {}): Promise<TokenBatch> {
    const characters = texts.reduce((sum, text) => sum + text.length, 0);
    if (characters <= INLINE_CHARACTERS) {
      const encoded = texts.map((text) => this.tokenizer.encode(text, options));
      const ids = concatenate(encoded, (length) => new Uint32Array(length));
      return { ids, offsets: offsetsOf(encoded.map((sequence) => sequence.length)) };
    }
    const chunks = chunksBySize(texts, (text) => text.length, CHUNK_CHARACTERS);
    const parts = await Promise.all(chunks.map((chunk) => this.#pool.run({ texts: chunk, options })));
    return {
      ids: concatenate(
        parts.map((part) => part.ids),
        (length) => new Uint32Array(length),
      ),
      offsets: offsetsOf(parts.flatMap((part) => lengthsOf(part.offsets))),
    };
  }

  /** Ends the workers. Idempotent. */
  close(): Promise<void> {
    return this.#pool.close();
  }
}
