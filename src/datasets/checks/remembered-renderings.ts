import type { RenderedBatch } from '../../prompt/render-batch.ts';
import type { Conversation, Message, TrainingOptions } from '../../prompt/renderer.ts';
import { concatenate, offsetsOf } from '../../tokenizer/token-batch.ts';
import type { BatchRenderer, TokenizedExample } from '../tokenize-examples.ts';

type Rendering = Pick<TokenizedExample, 'inputIds' | 'labels'>;

/**
 * Renders conversations once that several policies ask for: what `remember` was told is not rendered again. Forgets with the conversations.
 * All callers must ask with the same options.
 */
export class RememberedRenderings implements BatchRenderer {
  readonly #renderer: BatchRenderer;
  readonly #known = new WeakMap<readonly Message[], Rendering>();

  constructor(renderer: BatchRenderer) {
    this.#renderer = renderer;
  }

  /** Whole renderings, as they came out of a renderer. */
  remember(examples: readonly TokenizedExample[]): void {
    for (const { example, inputIds, labels } of examples) {
      if (example.content.kind === 'messages') this.#known.set(example.content.messages, { inputIds, labels });
    }
  }

  async renderTraining(conversations: readonly Conversation[], options: TrainingOptions): Promise<RenderedBatch> {
    const fresh = conversations.flatMap((one, index) => (this.#known.has(one.messages) ? [] : [{ one, index }]));
    const rendered =
      fresh.length === 0
        ? null
        : await this.#renderer.renderTraining(
            fresh.map(({ one }) => one),
            options,
          );
    const positions = new Map(fresh.map(({ index }, position) => [index, position]));
    const parts = conversations.map(({ messages }, index): Rendering => {
      const position = positions.get(index);
      if (position === undefined || rendered === null) return this.#known.get(messages) as Rendering;
      const [start, end] = [rendered.offsets[position], rendered.offsets[position + 1]];
      return { inputIds: rendered.inputIds.subarray(start, end), labels: rendered.labels.subarray(start, end) };
    });
    return {
      inputIds: concatenate(
        parts.map(({ inputIds }) => inputIds),
        (length) => new Uint32Array(length),
      ),
      labels: concatenate(
        parts.map(({ labels }) => labels),
        (length) => new Int32Array(length),
      ),
      offsets: offsetsOf(parts.map(({ inputIds }) => inputIds.length)),
      failures: (rendered?.failures ?? []).map((failure) => ({
        ...failure,
        index: fresh[failure.index]?.index ?? failure.index,
      })),
    };
  }
}
