import { LuthierError } from '../errors/luthier-error.ts';
import { type GenerationServiceService, ScoreTokensResponse } from '../gen/luthier/v1/generation_service.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import { generate } from './generate.ts';
import type { GenerationSlots } from './generation-slots.ts';
import { type PreparedPrompt, type PromptSourceDependencies, preparePrompt } from './prompt-source.ts';
import { generateSchema, scoreSchema } from './validate/generation.ts';
import { parseRequest } from './validate/parse-request.ts';
import type { PromptInput } from './validate/prompt.ts';

export interface GenerationServiceDependencies extends PromptSourceDependencies {
  readonly slots: GenerationSlots;
}

/** Candidates in one answer of ScoreTokens, over all positions: about 12 MB on the wire. */
const MAX_CANDIDATES = 1_000_000;

/** A conversation that ends with an answer is scored as it is; any other one up to where the answer would begin. */
function endsWithAnswer({ input }: PromptInput): boolean {
  return input.$case === 'messages' && input.value.messages.at(-1)?.role === 'assistant';
}

function checkCandidates(tokens: number, topLogits: number): void {
  if (tokens * topLogits <= MAX_CANDIDATES) return;
  const description = `expected at most ${Math.floor(MAX_CANDIDATES / tokens)} for ${tokens} tokens (${MAX_CANDIDATES} candidates in all), found ${topLogits}`;
  throw new LuthierError('INVALID_REQUEST', `top_logits: ${description}`, {
    violations: [{ field: 'top_logits', description, reason: '' }],
  });
}

async function score(prompt: PreparedPrompt, topLogits: number): Promise<ScoreTokensResponse> {
  const { inputIds, tokenizer } = prompt;
  const scores = await prompt.model.score(inputIds, topLogits, prompt.adapterHandle);
  const tokens = tokenizer.pieces(inputIds).map((piece, position) => {
    const at = position * topLogits;
    const top = Array.from(scores.topTokenIds.subarray(at, at + topLogits), (tokenId, rank) => ({
      tokenId,
      logit: scores.topLogits[at + rank] ?? 0,
    }));
    const logprob = position === 0 ? undefined : scores.logprobs[position];
    return { tokenId: piece.id, text: piece.text, logprob, topLogits: top };
  });
  const sum = scores.logprobs.subarray(1).reduce((total, logprob) => total + logprob, 0);
  const meanNll = inputIds.length > 1 ? -sum / (inputIds.length - 1) : 0;
  return ScoreTokensResponse.create({ tokens, meanNll, warnings: [...prompt.warnings] });
}

/** GenerationService: text from a base model or an adapter, and scores of given tokens. */
export function createGenerationService(
  dependencies: GenerationServiceDependencies,
): HandlersOf<typeof GenerationServiceService> {
  return {
    generate: async function* (request, { signal }) {
      const { sampling, logprobs, ...target } = parseRequest(generateSchema, request);
      const giveBack = dependencies.slots.take();
      try {
        const prompt = await preparePrompt(dependencies, target, 1);
        try {
          yield* generate(prompt, sampling, logprobs, signal);
        } finally {
          prompt.release();
        }
      } finally {
        giveBack();
      }
    },

    scoreTokens: async (request) => {
      const { topLogits, ...target } = parseRequest(scoreSchema, request);
      const giveBack = dependencies.slots.take();
      try {
        const addGenerationPrompt = !endsWithAnswer(target.prompt);
        const prompt = await preparePrompt(dependencies, target, 0, { addGenerationPrompt });
        try {
          checkCandidates(prompt.inputIds.length, topLogits);
          return await score(prompt, topLogits);
        } finally {
          prompt.release();
        }
      } finally {
        giveBack();
      }
    },
  };
}
