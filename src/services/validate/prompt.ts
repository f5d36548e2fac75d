import { z } from 'zod';
import { ROLES } from '../../prompt/messages.ts';
import { expected, templateField, wholeNumber } from './fields.ts';

const MESSAGES = 10_000;

const role = z.enum(ROLES as readonly ['system', 'user', 'assistant', 'tool'], expected(`one of ${ROLES.join(', ')}`));

/** Messages as the renderers take them. */
export const messagesSchema = z
  .array(
    z
      .object({ role, content: z.string(), weight: wholeNumber(0, 1).optional() })
      .transform(({ role, content, weight }) => ({
        role,
        content,
        ...(weight === undefined ? {} : { weight: weight === 0 ? (0 as const) : (1 as const) }),
      })),
  )
  .min(1, 'expected at least one message, found none')
  .max(MESSAGES, expected(`at most ${MESSAGES} messages`));

const input = z.discriminatedUnion(
  '$case',
  [
    z.object({ $case: z.literal('messages'), value: z.object({ messages: messagesSchema }) }),
    z.object({ $case: z.literal('text'), value: z.string() }),
    z.object({
      $case: z.literal('tokenIds'),
      value: z.object({ ids: z.array(z.number()).min(1, 'expected at least one token id, found none') }),
    }),
  ],
  'expected one of messages, text and token_ids; found none',
);

/** What a model reads; combinations that mean nothing are refused. */
export const promptSchema = z
  .object(
    { input, parseSpecial: z.boolean(), template: templateField, allowTemplateMismatch: z.boolean() },
    'expected a prompt: one of messages, text and token_ids; found none',
  )
  .superRefine((prompt, context) => {
    if (prompt.parseSpecial && prompt.input.$case !== 'text') {
      context.addIssue({ code: 'custom', path: ['parseSpecial'], message: 'expected only with text' });
    }
    if (prompt.template !== '' && prompt.input.$case !== 'messages') {
      context.addIssue({ code: 'custom', path: ['template'], message: 'expected only with messages' });
    }
    if (prompt.allowTemplateMismatch && prompt.input.$case !== 'messages') {
      context.addIssue({ code: 'custom', path: ['allowTemplateMismatch'], message: 'expected only with messages' });
    }
  });

/** A checked prompt. */
export type PromptInput = z.output<typeof promptSchema>;
