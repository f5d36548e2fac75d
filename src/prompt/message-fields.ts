/** Fields beside role and content, which not every template has a place for. Data that a template would leave out in silence is refused. */
import { PromptError } from './errors.ts';
import type { Conversation, Message } from './renderer.ts';

/** What a template has a place for. */
export interface TemplateFields {
  readonly tools: boolean;
  readonly toolCalls: boolean;
  readonly reasoningContent: boolean;
}

/** A template of turns: text alone. */
export const TEXT_ONLY: TemplateFields = { tools: false, toolCalls: false, reasoningContent: false };

/** What a chat template reads, by the names in its source. */
export const fieldsOf = (source: string): TemplateFields => ({
  tools: /\btools\b/.test(source),
  toolCalls: /\btool_calls\b/.test(source),
  reasoningContent: /\breasoning_content\b/.test(source),
});

/** @throws PromptError INVALID_MESSAGES for what the template has no place for, and for fields on messages of another role */
export function checkFields({ messages, tools }: Conversation, template: string, known: TemplateFields): void {
  const refuse = (index: number | null, field: string, what: string, remedy: string): never => {
    const place = index === null ? field : `messages[${index}].${field}`;
    const problem = `template ${template} has no place for ${what}, which would be left out in silence; ${remedy}`;
    throw new PromptError('INVALID_MESSAGES', `${place}: ${problem}`, index);
  };
  const another = 'choose a template that reads them';
  if (tools && !known.tools) refuse(null, 'tools', 'tools', `write them into the system message, or ${another}`);
  messages.forEach((message, index) => {
    checkRole(message, index);
    if (message.toolCalls && !known.toolCalls) {
      refuse(index, 'tool_calls', 'calls of tools', `write them into content, or ${another}`);
    }
    if (message.reasoningContent && !known.reasoningContent) {
      refuse(
        index,
        'reasoning_content',
        'reasoning',
        'write it into content as the model does (<think>…</think>, say)',
      );
    }
  });
}

function checkRole({ role, ...message }: Message, index: number): void {
  const fields = [
    ['tool_calls', message.toolCalls, 'assistant'],
    ['reasoning_content', message.reasoningContent, 'assistant'],
    ['tool_call_id', message.toolCallId, 'tool'],
    ['name', message.name, 'tool'],
  ] as const;
  const wrong = fields.find(([, value, expected]) => value !== undefined && role !== expected);
  if (wrong === undefined) return;
  const [field, , expected] = wrong;
  const problem = `expected on messages of role ${expected} only, found on one of ${role}; remove it`;
  throw new PromptError('INVALID_MESSAGES', `messages[${index}].${field}: ${problem}`, index);
}

/** A message as transformers gives it to a template: absent fields are undefined there. */
export function templateMessage({ role, content, ...message }: Message): Record<string, unknown> {
  const { toolCalls, reasoningContent, toolCallId, name } = message;
  return {
    role,
    content,
    ...(toolCalls && {
      tool_calls: toolCalls.map((call) => ({
        ...(call.id !== undefined && { id: call.id }),
        type: 'function',
        function: { name: call.name, arguments: call.arguments },
      })),
    }),
    ...(reasoningContent !== undefined && { reasoning_content: reasoningContent }),
    ...(toolCallId !== undefined && { tool_call_id: toolCallId }),
    ...(name !== undefined && { name }),
  };
}
