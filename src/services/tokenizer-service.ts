import { z } from 'zod';
import { LuthierError } from '../errors/luthier-error.ts';
import type { TokenizerServiceService } from '../gen/luthier/v1/tokenizer_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import { resourceName, templateField } from './validate/fields.ts';
import { parseRequest } from './validate/parse-request.ts';
import { messagesSchema, toolsSchema } from './validate/prompt.ts';

const model = resourceName('a model: `models/{id}` or a path');

const tokenizeSchema = z.object({
  model,
  text: z.string(),
  parseSpecial: z.boolean(),
  addSpecialTokens: z.boolean(),
});

const detokenizeSchema = z.object({ model, tokenIds: z.array(z.number()), skipSpecialTokens: z.boolean() });

const renderSchema = z.object({
  model,
  messages: messagesSchema,
  tools: toolsSchema,
  template: templateField,
  addGenerationPrompt: z.boolean().default(true),
});

/**
 * Refuses ids outside of the vocabulary.
 * @param field The request's field, such as `token_ids`.
 */
export function checkTokenIds(ids: readonly number[], vocabSize: number, field: string): void {
  const index = ids.findIndex((id) => !(id >= 0 && id < vocabSize));
  if (index < 0) return;
  const description = `expected an id below the vocabulary's size ${vocabSize}, found ${ids[index]}`;
  throw new LuthierError('INVALID_REQUEST', `${field}[${index}]: ${description}`, {
    violations: [{ field: `${field}[${index}]`, description, reason: 'UNKNOWN_TOKEN_ID' }],
  });
}

const piecesOf = (tokenizer: Tokenizer, ids: ArrayLike<number>): string[] =>
  tokenizer.pieces(ids).map((piece) => piece.text);

/** TokenizerService: the tokenizers and renderers that training and generation use. */
export function createTokenizerService(dependencies: {
  readonly registry: ModelRegistry;
}): HandlersOf<typeof TokenizerServiceService> {
  const { registry } = dependencies;
  return {
    tokenize: async (request) => {
      const { model, text, parseSpecial, addSpecialTokens } = parseRequest(tokenizeSchema, request);
      const ids = await registry.encode(model, text, { parseSpecial, addSpecialTokens });
      return { tokenIds: Array.from(ids), pieces: piecesOf(await registry.tokenizer(model), ids) };
    },

    detokenize: async (request) => {
      const { model, tokenIds, skipSpecialTokens } = parseRequest(detokenizeSchema, request);
      const tokenizer = await registry.tokenizer(model);
      checkTokenIds(tokenIds, tokenizer.vocabSize, 'token_ids');
      return { text: tokenizer.decode(tokenIds, { skipSpecialTokens }) };
    },

    renderPrompt: async (request) => {
      const { model, messages, tools, template, addGenerationPrompt } = parseRequest(renderSchema, request);
      const renderer = await registry.renderer(model, template);
      const { inputIds } = renderer.renderPrompt(messages, { addGenerationPrompt, tools });
      const tokenizer = await registry.tokenizer(model);
      return {
        tokenIds: Array.from(inputIds),
        pieces: piecesOf(tokenizer, inputIds),
        template: { ...renderer.template },
      };
    },
  };
}
