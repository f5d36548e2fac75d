import { randomInt } from 'node:crypto';
import type { GeneratedTokens, SamplingConfig } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import {
  FinishReason,
  type GenerateResponse,
  GenerationDelta,
  GenerationFinished,
  GenerationStarted,
} from '../gen/luthier/v1/generation_service.ts';
import { AnswerText } from './answer-text.ts';
import type { PreparedPrompt } from './prompt-source.ts';
import type { SamplingInput } from './validate/generation.ts';

const DEFAULT_MAX_NEW_TOKENS = 256;

/** Every id that ends an answer: the files' own and, for messages, those that close the template's answers. */
function endTokens(prompt: PreparedPrompt): number[] {
  return [
    ...new Set([
      ...prompt.model.metadata.eosTokenIds,
      ...prompt.tokenizer.endOfGenerationTokenIds,
      ...(prompt.renderer?.stopTokenIds ?? []),
    ]),
  ];
}

/**
 * What the engine is asked for. The answer never leaves the model's context.
 * @throws LuthierError INVALID_REQUEST where more than the whole context is asked for
 */
function samplingConfig(prompt: PreparedPrompt, sampling: SamplingInput): SamplingConfig {
  const context = prompt.model.metadata.maxPositionEmbeddings;
  const asked = sampling.maxNewTokens ?? DEFAULT_MAX_NEW_TOKENS;
  if (sampling.maxNewTokens !== undefined && asked > context) {
    const description = `expected at most the model's context of ${context} tokens, found ${asked}`;
    throw new LuthierError('INVALID_REQUEST', `sampling.max_new_tokens: ${description}`, {
      violations: [{ field: 'sampling.max_new_tokens', description, reason: '' }],
    });
  }
  return {
    maxNewTokens: Math.min(asked, context - prompt.inputIds.length),
    temperature: sampling.temperature,
    topK: sampling.topK,
    topP: sampling.topP,
    minP: sampling.minP,
    repetitionPenalty: sampling.repetitionPenalty,
    seed: sampling.seed ?? randomInt(2 ** 32),
    eosTokenIds: sampling.ignoreEos ? [] : endTokens(prompt),
  };
}

const FINISH_REASONS: Readonly<Record<NonNullable<GeneratedTokens['finishReason']>, FinishReason>> = {
  eos: FinishReason.FINISH_REASON_EOS,
  length: FinishReason.FINISH_REASON_LENGTH,
  cancelled: FinishReason.FINISH_REASON_CANCELLED,
};

const event = (value: NonNullable<GenerateResponse['event']>): GenerateResponse => ({ event: value });

function started(prompt: PreparedPrompt, seed: number): GenerateResponse {
  const value = GenerationStarted.create({
    model: prompt.modelName,
    adapter: prompt.adapter?.name ?? '',
    promptTokens: prompt.inputIds.length,
    seed,
    warnings: [...prompt.warnings],
    ...(prompt.renderer === null ? {} : { template: { ...prompt.renderer.template } }),
  });
  return event({ $case: 'started', value });
}

/** Counts tokens and takes the times of the first and the last. */
class Clock {
  readonly #start = performance.now();
  #first: number | null = null;
  #last = 0;
  tokens = 0;

  count(tokens: number): void {
    if (tokens === 0) return;
    this.#last = performance.now();
    this.#first ??= this.#last;
    this.tokens += tokens;
  }

  get secondsToFirst(): number {
    return this.#first === null ? 0 : (this.#first - this.#start) / 1000;
  }

  /** Of the tokens behind the first: what decoding alone reaches. */
  get tokensPerSecond(): number {
    const milliseconds = this.#first === null ? 0 : this.#last - this.#first;
    return milliseconds > 0 ? ((this.tokens - 1) * 1000) / milliseconds : 0;
  }
}

/**
 * One generation: `started`, a delta for each batch of the engine, `finished`. The engine's run is cancelled when the signal aborts, when a
 * stop string is complete, and when the consumer leaves.
 */
export async function* generate(
  prompt: PreparedPrompt,
  sampling: SamplingInput,
  logprobs: boolean,
  signal: AbortSignal,
): AsyncGenerator<GenerateResponse, void, undefined> {
  const config = samplingConfig(prompt, sampling);
  const { renderer } = prompt;
  const answer = new AnswerText(prompt.tokenizer, {
    stopStrings: [...sampling.stop, ...(renderer?.stopStrings ?? [])],
    continuation: renderer === null,
    answerPrefix: renderer?.answerPrefix ?? '',
  });
  yield started(prompt, config.seed);

  const clock = new Clock();
  signal.throwIfAborted();
  const run = prompt.model.generate(prompt.inputIds, config, prompt.adapterHandle);
  const cancel = (): void => run.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  let reason: FinishReason = FinishReason.FINISH_REASON_CANCELLED;
  try {
    for await (const batch of run.tokens()) {
      clock.count(batch.tokenIds.length);
      let text = answer.push(batch.tokenIds);
      if (batch.finishReason !== null) {
        reason = FINISH_REASONS[batch.finishReason];
        text += answer.finish();
      }
      if (text !== '' || batch.tokenIds.length > 0) {
        const value = GenerationDelta.create({
          text,
          tokenIds: Array.from(batch.tokenIds),
          logprobs: logprobs ? Array.from(batch.logprobs) : [],
        });
        yield event({ $case: 'delta', value });
      }
      if (answer.matchedStop !== null) break;
    }
  } finally {
    signal.removeEventListener('abort', cancel);
    run.cancel();
  }
  if (answer.matchedStop !== null) reason = FinishReason.FINISH_REASON_STOP;
  const value = GenerationFinished.create({
    reason,
    stop: answer.matchedStop ?? '',
    promptTokens: prompt.inputIds.length,
    completionTokens: clock.tokens,
    timeToFirstTokenSeconds: clock.secondsToFirst,
    tokensPerSecond: clock.tokensPerSecond,
    trailingBytes: Buffer.from(answer.trailingBytes()),
  });
  yield event({ $case: 'finished', value });
}
