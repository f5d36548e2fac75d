import { z } from 'zod';
import { Issues } from '../../datasets/layouts/issues.ts';
import { readObject, readTool } from '../../datasets/layouts/tools.ts';
import { ROLES } from '../../prompt/messages.ts';
import type { JsonObject, Message } from '../../prompt/renderer.ts';
import { expected, templateField, wholeNumber } from './fields.ts';

const MESSAGES = 10_000;

const role = z.enum(ROLES as readonly ['system', 'user', 'assistant', 'tool'], expected(`one of ${ROLES.join(', ')}`));

/** JSON text of an object, as `read` checks it. */
const jsonObject = (read: (object: JsonObject, issues: Issues) => JsonObject) =>
  z.string().transform((text, context) => {
    const issues = new Issues();
    const object = readObject(text, '', issues);
    const value = issues.found.length > 0 ? object : read(object, issues);
    for (const { description } of issues.found) context.addIssue({ code: 'custom', message: description });
    return value;
  });

const toolCall = z
  .object({ id: z.string(), name: z.string(), arguments: jsonObject((object) => object) })
  .transform(({ id, ...call }) => (id === '' ? call : { id, ...call }));

/** Tools as the renderers take them. */
export const toolsSchema = z.array(jsonObject((object, issues) => readTool(object, '', issues))).default([]);

/** Messages as the renderers take them. */
export const messagesSchema = z
  .array(
    z
      .object({
        role,
        content: z.string(),
        weight: wholeNumber(0, 1).optional(),
        toolCalls: z.array(toolCall).default([]),
        reasoningContent: z.string().optional(),
        toolCallId: z.string().optional(),
        name: z.string().optional(),
      })
      .transform(
        ({ role, content, weight, toolCalls, reasoningContent, toolCallId, name }): Message => ({
          role,
          content,
          ...(weight === undefined ? {} : { weight: weight === 0 ? 0 : 1 }),
          ...(toolCalls.length > 0 && { toolCalls }),
          ...(reasoningContent !== undefined && { reasoningContent }),
          ...(toolCallId !== undefined && { toolCallId }),
          ...(name !== undefined && { name }),
        }),
      ),
  )
  .min(1, 'expected at least one message, found none')
  .max(MESSAGES, expected(`at most ${MESSAGES} messages`));

const input = z.discriminatedUnion(
  '$case',
  [
    z.object({ $case: z.literal('messages'), value: z.object({ messages: messagesSchema, tools: toolsSchema }) }),
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
