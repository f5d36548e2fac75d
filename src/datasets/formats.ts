/** The formats of examples: how they are told apart, and how each becomes what a renderer takes. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import type { Conversation, Message } from '../prompt/renderer.ts';
import { readConversations } from './layouts/conversations.ts';
import type { Fields } from './layouts/fields.ts';
import { Issues } from './layouts/issues.ts';
import { readMessages } from './layouts/messages.ts';
import { readInstruction, readPromptCompletion, readRounds, readText } from './layouts/pairs.ts';
import { readTokens } from './layouts/tokens.ts';

export type FormatName =
  | 'messages'
  | 'prompt_completion'
  | 'tokens'
  | 'conversations'
  | 'instruction'
  | 'rounds'
  | 'text';

/** Messages to render, or exact ids with their labels (not shifted; -100 is ignored), one label per id. */
export type ExampleContent =
  | (Conversation & { readonly kind: 'messages' })
  | { readonly kind: 'tokens'; readonly inputIds: Uint32Array; readonly labels: Int32Array };

/** The fields that tell a format; the first match counts. */
const SIGNS: readonly (readonly [FormatName, string])[] = [
  ['messages', 'messages'],
  ['tokens', 'input_ids'],
  ['conversations', 'conversations'],
  ['instruction', 'instruction'],
  ['prompt_completion', 'prompt'],
  ['prompt_completion', 'completion'],
  ['rounds', 'query'],
  ['text', 'text'],
];

/** Fields that tell a format, each alone. */
export const SIGN_FIELDS: ReadonlySet<string> = new Set(SIGNS.map(([, field]) => field));

/** Every field of the formats: what a column can be mapped to. */
export const FORMAT_FIELDS: ReadonlySet<string> = new Set([
  ...SIGN_FIELDS,
  'labels',
  'tools',
  'input',
  'output',
  'response',
  'history',
  'system',
  'id',
]);

/** What a file may look like, for people. */
export const FORMATS_IN_WORDS =
  '{"messages"}, {"conversations"}, {"instruction", "output"}, {"prompt", "completion"}, {"query", "response"}, {"text"} or {"input_ids", "labels"}';

/** The format that an example has by its fields; null: none of those known. */
export function detectFormat(example: Fields): FormatName | null {
  return SIGNS.find(([, field]) => Object.hasOwn(example, field))?.[0] ?? null;
}

const MESSAGE_READERS: Readonly<
  Record<Exclude<FormatName, 'tokens' | 'messages'>, (example: Fields, issues: Issues) => Message[]>
> = {
  conversations: readConversations,
  instruction: readInstruction,
  prompt_completion: readPromptCompletion,
  rounds: readRounds,
  text: readText,
};

function readContent(format: FormatName, example: Fields, issues: Issues): ExampleContent {
  if (format === 'tokens') return { kind: 'tokens', ...readTokens(example, issues) };
  if (format === 'messages') return { kind: 'messages', ...readMessages(example, issues) };
  return { kind: 'messages', messages: MESSAGE_READERS[format](example, issues) };
}

/** What an example is known by where it has messages: the same text for the same messages and tools. */
export const conversationText = ({ messages, tools }: Conversation): string =>
  JSON.stringify(tools === undefined ? messages : { messages, tools });

/** An example, or what is wrong with it, with places within it such as `messages[1].content`. */
export function readExample(format: FormatName, example: Fields): ExampleContent | readonly FieldViolation[] {
  const issues = new Issues();
  const content = readContent(format, example, issues);
  return issues.found.length > 0 ? issues.found : content;
}

/** Template of examples whose request names none; empty: the model's own. A text is no conversation. */
export const defaultTemplate = (format: FormatName, template: string): string =>
  template === '' && format === 'text' ? 'concat-eos' : template;
