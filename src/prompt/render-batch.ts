/** Many conversations to the engine's examples. */
import type { TokenExamples } from '../engine/engine.ts';
import { concatenate, offsetsOf } from '../tokenizer/token-batch.ts';
import { PromptError, type PromptErrorCode } from './errors.ts';
import type { Conversation, Renderer, TrainingOptions } from './renderer.ts';

/** A conversation that the template refused. */
interface RenderFailure {
  /** Index in the batch. */
  readonly index: number;
  readonly code: PromptErrorCode;
  readonly message: string;
  readonly messageIndex: number | null;
}

/** Example i is `[offsets[i], offsets[i+1])`; a refused conversation is empty and stands in `failures`. */
export interface RenderedBatch extends TokenExamples {
  readonly failures: readonly RenderFailure[];
}

/** Renders conversations in order. What the template refuses is reported, not thrown. */
export function renderBatch(
  renderer: Renderer,
  conversations: readonly Conversation[],
  options: TrainingOptions,
): RenderedBatch {
  const inputIds: Uint32Array[] = [];
  const labels: Int32Array[] = [];
  const failures: RenderFailure[] = [];
  conversations.forEach(({ messages, tools }, index) => {
    try {
      const example = renderer.renderTraining(messages, tools === undefined ? options : { ...options, tools });
      inputIds.push(example.inputIds);
      labels.push(example.labels);
    } catch (error) {
      if (!(error instanceof PromptError)) throw error;
      failures.push({ index, code: error.code, message: error.message, messageIndex: error.messageIndex });
      inputIds.push(new Uint32Array(0));
      labels.push(new Int32Array(0));
    }
  });
  return {
    inputIds: concatenate(inputIds, (length) => new Uint32Array(length)),
    labels: concatenate(labels, (length) => new Int32Array(length)),
    offsets: offsetsOf(inputIds.map((ids) => ids.length)),
    failures,
  };
}
