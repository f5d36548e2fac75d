/** Renders data sets without blocking the event loop: small batches inline, large ones on worker threads. */
import type { TokenizerSource } from '../engine/engine.ts';
import { CHUNK_CHARACTERS, INLINE_CHARACTERS } from '../tokenizer/pool.ts';
import { chunksBySize, concatenate, lengthsOf, offsetsOf } from '../tokenizer/token-batch.ts';
import type { EncoderKind } from '../tokenizer/tokenizer.ts';
import { WorkerPool, type WorkerPoolOptions } from '../tokenizer/worker-pool.ts';
import { charactersOf } from './conversation-texts.ts';
import type { TemplateDefinition } from './definition.ts';
import { type RenderedBatch, renderBatch } from './render-batch.ts';
import type { Conversation, Renderer, TrainingOptions } from './renderer.ts';

export interface RenderPoolSetup {
  readonly source: TokenizerSource;
  readonly template: string | TemplateDefinition | null;
  /** The workers encode with the engine's addon where it knows the kind of tokenizer. */
  readonly native: boolean;
}

export interface RenderRequest {
  readonly conversations: readonly Conversation[];
  readonly options: TrainingOptions;
}

export interface RenderResponse {
  readonly batch: RenderedBatch;
  readonly encoder: EncoderKind;
}

export class RenderPool {
  readonly renderer: Renderer;
  #encoder: EncoderKind = 'javascript';
  readonly #pool: WorkerPool<RenderRequest, RenderResponse>;

  /** `setup` is what `renderer` was made from (`loadTokenizer`, `createRenderer`); each worker makes its own. */
  constructor(renderer: Renderer, setup: RenderPoolSetup, options: WorkerPoolOptions = {}) {
    this.renderer = renderer;
    this.#pool = new WorkerPool(new URL('./render-worker.ts', import.meta.url), setup, options);
  }

  /** What encoded: the workers' last word, JavaScript where none was needed yet. */
  get encoder(): EncoderKind {
    return this.#encoder;
  }

  /** Renders conversations in order, on all workers. What the template refuses is reported in `failures`. */
  async renderTraining(conversations: readonly Conversation[], options: TrainingOptions): Promise<RenderedBatch> {
    const characters = conversations.reduce((sum, one) => sum + charactersOf(one), 0);
    if (characters <= INLINE_CHARACTERS && conversations.length <= 64)
      return renderBatch(this.renderer, conversations, options);
    // Short conversations cost time too: a template is rendered once for each turn.
    const chunks = chunksBySize(
      conversations,
      (one) => charactersOf(one) + 256 * one.messages.length,
      CHUNK_CHARACTERS,
    );
    const responses = await Promise.all(chunks.map((chunk) => this.#pool.run({ conversations: chunk, options })));
    this.#encoder = responses.at(-1)?.encoder ?? this.#encoder;
    const parts = responses.map(({ batch }) => batch);
    let first = 0;
    const failures = parts.flatMap((part, index) => {
      const moved = part.failures.map((failure) => ({ ...failure, index: failure.index + first }));
      first += chunks[index]?.length ?? 0;
      return moved;
    });
    return {
      inputIds: concatenate(
        parts.map((part) => part.inputIds),
        (length) => new Uint32Array(length),
      ),
      labels: concatenate(
        parts.map((part) => part.labels),
        (length) => new Int32Array(length),
      ),
      offsets: offsetsOf(parts.flatMap((part) => lengthsOf(part.offsets))),
      failures,
    };
  }

  /** Ends the workers. Idempotent. */
  close(): Promise<void> {
    return this.#pool.close();
  }
}
