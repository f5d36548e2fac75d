/** The layouts of examples: what a line of JSONL may look like, and how it becomes an example. */
import { z } from 'zod';
import { LuthierError } from '../errors/luthier-error.ts';
import { ROLES } from '../prompt/messages.ts';
import type { Message } from '../prompt/renderer.ts';
import { IGNORED_LABEL } from '../prompt/renderer.ts';

/** Layouts that can be read. */
export type FormatName = 'messages' | 'prompt_completion' | 'tokens';

/** Layouts of the contract, those that are not built yet, too. */
export type ContractFormatName = FormatName | 'conversations' | 'instruction' | 'rounds' | 'text';

/** Messages to render, or exact ids with their labels (not shifted; -100 is ignored), one label per id. */
export type ExampleContent =
  | { readonly kind: 'messages'; readonly messages: readonly Message[] }
  | { readonly kind: 'tokens'; readonly inputIds: Uint32Array; readonly labels: Int32Array };

const UINT32 = 2 ** 32 - 1;
const INT32 = 2 ** 31 - 1;

/** What a value is, in the words of JSON; short enough for a message. */
function found(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return value.length === 0 ? 'an empty list' : `a list of ${value.length}`;
  if (typeof value === 'object' && value !== null) return 'an object';
  const text = JSON.stringify(value);
  return text.length > 80 ? `a text of ${text.length} characters` : text;
}

const expected = (what: string) => ({
  error: (issue: { readonly input?: unknown }): string => `expected ${what}, found ${found(issue.input)}`,
});

const flaw = (message: string, reason: string) => ({ error: message, params: { reason } });

/** Text that UTF-8 can hold: JSON's \u escapes can write halves of characters. */
const text = z
  .string(expected('a text'))
  .refine(
    (value) => value.isWellFormed(),
    flaw('expected whole characters, found half of a surrogate pair', 'NOT_UNICODE'),
  );

const message = z
  .strictObject(
    {
      role: z.enum(ROLES as readonly ['system', 'user', 'assistant', 'tool'], expected(`one of ${ROLES.join(', ')}`)),
      content: text,
      weight: z.union([z.literal(0), z.literal(1)], expected('0 or 1')).optional(),
    },
    expected('a message: {"role", "content"}'),
  )
  .refine(({ role, weight }) => weight === undefined || role === 'assistant', {
    ...flaw('expected on assistant messages only; remove it', 'WEIGHT_NOT_ALLOWED'),
    path: ['weight'],
  });

const messagesLine = z
  .strictObject({
    messages: z
      .array(message, expected('a list of messages'))
      .refine((list) => list.length > 0, flaw('expected at least one message, found none', 'EMPTY_MESSAGES')),
  })
  .transform(
    ({ messages }): ExampleContent => ({
      kind: 'messages',
      messages: messages.map(({ role, content, weight }) =>
        weight === undefined ? { role, content } : { role, content, weight },
      ),
    }),
  );

const promptCompletionLine = z.strictObject({ prompt: text, completion: text }).transform(
  ({ prompt, completion }): ExampleContent => ({
    kind: 'messages',
    messages: [
      { role: 'user', content: prompt },
      { role: 'assistant', content: completion },
    ],
  }),
);

const tokenId = z.int(expected('a token id')).min(0, expected('a token id')).max(UINT32, expected('a token id'));
const label = z
  .int(expected('a token id or -100'))
  .max(INT32, expected('a token id or -100'))
  .refine((value) => value >= 0 || value === IGNORED_LABEL, expected('a token id or -100'));

const tokensLine = z
  .strictObject({
    input_ids: z
      .array(tokenId, expected('a list of token ids'))
      .refine((list) => list.length > 0, flaw('expected at least one token id, found none', 'EMPTY_TOKENS')),
    labels: z.array(label, expected('a list of labels, one for each token id')),
  })
  .superRefine(({ input_ids, labels }, context) => {
    if (input_ids.length === labels.length) return;
    context.addIssue({
      code: 'custom',
      path: ['labels'],
      message: `expected one label for each of the ${input_ids.length} token ids, found ${labels.length}`,
      params: { reason: 'LENGTHS_DIFFER' },
    });
  })
  .transform(
    ({ input_ids, labels }): ExampleContent => ({
      kind: 'tokens',
      inputIds: Uint32Array.from(input_ids),
      labels: Int32Array.from(labels),
    }),
  );

/** The shape of a line, by layout. Fields that a layout does not have are refused: none is ignored in silence. */
export const LINE_SCHEMAS = {
  messages: messagesLine,
  prompt_completion: promptCompletionLine,
  tokens: tokensLine,
} as const satisfies Record<FormatName, z.ZodType<ExampleContent>>;

/** The fields that tell a layout; the first match counts. */
const SIGNS: readonly (readonly [ContractFormatName, string])[] = [
  ['messages', 'messages'],
  ['tokens', 'input_ids'],
  ['prompt_completion', 'prompt'],
  ['prompt_completion', 'completion'],
  ['conversations', 'conversations'],
  ['instruction', 'instruction'],
  ['rounds', 'query'],
  ['text', 'text'],
];

/** The layout that a line has by its fields; null: none of those known. */
export function detectFormat(line: unknown): ContractFormatName | null {
  if (typeof line !== 'object' || line === null) return null;
  return SIGNS.find(([, field]) => Object.hasOwn(line, field))?.[0] ?? null;
}

/** @throws LuthierError NOT_BUILT_YET by name */
export function builtFormat(format: ContractFormatName): FormatName {
  if (Object.hasOwn(LINE_SCHEMAS, format)) return format as FormatName;
  const description = `the ${format} format is not built yet; expected ${Object.keys(LINE_SCHEMAS).join(', ')}`;
  throw new LuthierError('NOT_BUILT_YET', description, {
    violations: [{ field: 'format', description, reason: 'NOT_BUILT_YET' }],
  });
}
