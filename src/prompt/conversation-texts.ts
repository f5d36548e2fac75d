/** All texts of a conversation that are not the template's own: what a guard has to look at. */
import type { Conversation, Json, JsonObject, Message } from './renderer.ts';

/** Words of JSON Schema and of calls, which templates look for: they stay as they are. */
const WORDS: ReadonlySet<string> = new Set([
  ...['type', 'function', 'name', 'description', 'parameters', 'properties', 'required', 'items', 'enum', 'arguments'],
  ...['anyOf', 'oneOf', 'allOf', 'default', 'return', 'format', 'nullable', 'additionalProperties', '$ref', '$defs'],
  ...['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'],
]);

type Change = (text: string) => string;

function changeJson(value: Json, change: Change): Json {
  if (typeof value === 'string') return WORDS.has(value) ? value : change(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return (value as readonly Json[]).map((item) => changeJson(item, change));
  return changeObject(value as JsonObject, change);
}

function changeObject(object: JsonObject, change: Change): JsonObject {
  const entries = Object.entries(object);
  return Object.fromEntries(entries.map(([key, value]) => [changeJson(key, change), changeJson(value, change)]));
}

function changeMessage(message: Message, change: Change): Message {
  const { content, toolCalls, reasoningContent, toolCallId, name } = message;
  return {
    ...message,
    content: change(content),
    ...(toolCalls && {
      toolCalls: toolCalls.map((call) => ({
        ...(call.id !== undefined && { id: change(call.id) }),
        name: change(call.name),
        arguments: changeObject(call.arguments, change),
      })),
    }),
    ...(reasoningContent !== undefined && { reasoningContent: change(reasoningContent) }),
    ...(toolCallId !== undefined && { toolCallId: change(toolCallId) }),
    ...(name !== undefined && { name: change(name) }),
  };
}

/** The conversation with every text changed. */
export function changeTexts({ messages, tools }: Conversation, change: Change): Conversation {
  return {
    messages: messages.map((message) => changeMessage(message, change)),
    ...(tools && { tools: tools.map((tool) => changeObject(tool, change)) }),
  };
}

/** Every text of the conversation, keys and names included. */
export function textsOf(conversation: Conversation): string[] {
  const texts: string[] = [];
  changeTexts(conversation, (text) => {
    texts.push(text);
    return text;
  });
  return texts;
}

/** UTF-16 units of a conversation, about. */
export const charactersOf = (conversation: Conversation): number =>
  textsOf(conversation).reduce((sum, text) => sum + text.length, 0);
