import { z } from 'zod';
import { expected, finiteNumber, loadInField, optionalName, positiveNumber, wholeNumber } from './fields.ts';
import { promptSchema } from './prompt.ts';

const UINT32 = 2 ** 32 - 1;

const samplingSchema = z.object({
  // The model's context bounds it further.
  maxNewTokens: wholeNumber(1, UINT32).optional(),
  temperature: finiteNumber(0, 100).default(0),
  topK: wholeNumber(0, UINT32).default(0),
  topP: positiveNumber(1).default(1),
  minP: finiteNumber(0, 1).default(0),
  repetitionPenalty: positiveNumber(100).default(1),
  seed: wholeNumber(0, UINT32).optional(),
  stop: z
    .array(z.string().min(1, expected('at least one character')).max(1024, expected('at most 1024 characters')))
    .max(16, expected('at most 16 stop strings'))
    .default([]),
  ignoreEos: z.boolean().default(false),
});

const target = { model: optionalName, adapter: optionalName, prompt: promptSchema, loadIn: loadInField };

const needsModel = (request: { model: string; adapter: string }): boolean =>
  request.model !== '' || request.adapter !== '';

const modelMissing = {
  path: ['model'],
  message: 'expected a model, or an adapter, which knows its base; found neither',
};

/** GenerateRequest. */
export const generateSchema = z
  .object({ ...target, sampling: samplingSchema.optional(), logprobs: z.boolean() })
  .transform((request) => ({ ...request, sampling: request.sampling ?? samplingSchema.parse({}) }))
  .refine(needsModel, modelMissing);

/** ScoreTokensRequest. */
export const scoreSchema = z.object({ ...target, topLogits: wholeNumber(0, 100) }).refine(needsModel, modelMissing);

/** Sampling with its defaults. */
export type SamplingInput = z.output<typeof samplingSchema>;
