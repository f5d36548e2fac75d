import { ROLES } from '../../prompt/messages.ts';
import type { Conversation, Message, Role, ToolCall } from '../../prompt/renderer.ts';
import { checkKeys, type Fields, isFields, listField, messageOf, placeOf, textAt, weightOf } from './fields.ts';
import type { Issues } from './issues.ts';
import { readToolCalls, readTools } from './tools.ts';

const FIELDS: ReadonlySet<string> = new Set(['messages', 'tools']);
const MESSAGE_FIELDS: ReadonlySet<string> = new Set([
  ...['role', 'content', 'weight'],
  ...['tool_calls', 'reasoning_content', 'tool_call_id', 'name'],
]);

/** The text of a field that messages of one role may have; undefined where there is none. Null is none, as files of one schema for all roles have it. */
function roleText(message: Fields, key: string, role: Role, expected: Role, place: string, issues: Issues) {
  const value = message[key];
  if (value === undefined || value === null) return undefined;
  const field = placeOf(place, key);
  if (role === expected) return textAt(value, field, issues);
  issues.add(field, `expected on ${expected} messages only, found on one of ${role}; remove it`, 'UNKNOWN_FIELD');
  return undefined;
}

function callsOf(message: Fields, role: Role, place: string, issues: Issues): ToolCall[] {
  const value = message.tool_calls;
  if (value === undefined || value === null) return [];
  const field = placeOf(place, 'tool_calls');
  if (role === 'assistant') return readToolCalls(value, field, issues);
  issues.add(field, `expected on assistant messages only, found on one of ${role}; remove it`, 'UNKNOWN_FIELD');
  return [];
}

function readMessage(value: unknown, place: string, issues: Issues): Message {
  if (!isFields(value)) {
    issues.wrong(place, 'a message: {"role", "content"}', value);
    return messageOf('user', '');
  }
  checkKeys(value, place, MESSAGE_FIELDS, issues);
  const known = ROLES.find((role) => role === value.role) ?? null;
  if (known === null) issues.wrong(placeOf(place, 'role'), `one of ${ROLES.join(', ')}`, value.role);
  const role = known ?? 'user';
  const toolCalls = known === null ? [] : callsOf(value, role, place, issues);
  // OpenAI writes null for an answer that is calls only.
  const isEmpty = toolCalls.length > 0 && (value.content === null || value.content === undefined);
  const content = isEmpty ? '' : textAt(value.content, placeOf(place, 'content'), issues);
  const message = messageOf(role, content, weightOf(value, known, place, issues));
  if (known === null) return message;
  const reasoningContent = roleText(value, 'reasoning_content', role, 'assistant', place, issues);
  const toolCallId = roleText(value, 'tool_call_id', role, 'tool', place, issues);
  const name = roleText(value, 'name', role, 'tool', place, issues);
  return {
    ...message,
    ...(toolCalls.length > 0 && { toolCalls }),
    ...(reasoningContent !== undefined && { reasoningContent }),
    ...(toolCallId !== undefined && { toolCallId }),
    ...(name !== undefined && { name }),
  };
}

/**
 * OpenAI's layout: `{"messages": [{"role", "content", "weight"?}, …], "tools"?}`. An assistant's message may have `tool_calls` and
 * `reasoning_content`, a tool's `tool_call_id` and `name`.
 */
export function readMessages(example: Fields, issues: Issues): Conversation {
  checkKeys(example, '', FIELDS, issues);
  const messages: Message[] = [];
  for (const [index, value] of (
    listField(example, 'messages', 'a list of messages', 'EMPTY_MESSAGES', issues) ?? []
  ).entries()) {
    messages.push(readMessage(value, `messages[${index}]`, issues));
    if (issues.full) break;
  }
  const tools = readTools(example.tools, issues);
  return tools.length === 0 ? { messages } : { messages, tools };
}
