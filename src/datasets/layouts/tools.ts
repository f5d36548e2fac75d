/** Functions and their calls, as OpenAI's and Hugging Face's chats write them. */
import type { JsonObject, ToolCall } from '../../prompt/renderer.ts';
import { parseJson } from '../parse-json.ts';
import { checkKeys, isFields, placeOf, textAt } from './fields.ts';
import type { Issues } from './issues.ts';

const CALL_FIELDS: ReadonlySet<string> = new Set(['id', 'type', 'function']);
const FUNCTION_FIELDS: ReadonlySet<string> = new Set(['name', 'arguments']);

/** Lists and objects within each other. */
const MAX_DEPTH = 32;

/** Whether texts and depth are as they should be; what is not is told. */
function checkJson(value: unknown, place: string, issues: Issues, depth = 0): boolean {
  if (typeof value === 'string') {
    textAt(value, place, issues);
    return value.isWellFormed();
  }
  if (typeof value !== 'object' || value === null) return true;
  if (depth >= MAX_DEPTH) {
    const description = `expected at most ${MAX_DEPTH} lists and objects within each other, found more; flatten it`;
    issues.add(place, description, 'NESTED_TOO_DEEP');
    return false;
  }
  return Object.entries(value).every(
    ([key, member]) => checkJson(key, place, issues, depth) && checkJson(member, place, issues, depth + 1),
  );
}

/** An object, or JSON text that holds one. */
export function readObject(value: unknown, place: string, issues: Issues): JsonObject {
  const parsed = typeof value === 'string' ? parseJson(value) : { value };
  if ('flaw' in parsed) {
    const description = `expected an object or JSON text that holds one, found text that is none (${parsed.flaw.description})`;
    issues.add(place, description, 'WRONG_SHAPE');
    return {};
  }
  if (!isFields(parsed.value)) issues.wrong(place, 'an object, or JSON text that holds one', parsed.value);
  else if (checkJson(parsed.value, place, issues)) return parsed.value as JsonObject;
  return {};
}

function readCall(value: unknown, place: string, issues: Issues): ToolCall {
  const none = { name: '', arguments: {} };
  if (!isFields(value) || !isFields(value.function) || (value.type ?? 'function') !== 'function') {
    issues.wrong(place, 'a call: {"id"?, "type": "function", "function": {"name", "arguments"}}', value);
    return none;
  }
  checkKeys(value, place, CALL_FIELDS, issues);
  const called = placeOf(place, 'function');
  checkKeys(value.function, called, FUNCTION_FIELDS, issues);
  const { id, function: target } = value;
  return {
    ...(id !== undefined && id !== null && { id: textAt(id, placeOf(place, 'id'), issues) }),
    name: textAt(target.name, placeOf(called, 'name'), issues),
    arguments: readObject(target.arguments, placeOf(called, 'arguments'), issues),
  };
}

/** `[{"id"?, "type": "function", "function": {"name", "arguments"}}, …]`; arguments as an object or, as OpenAI has it, its JSON text. */
export function readToolCalls(value: unknown, place: string, issues: Issues): ToolCall[] {
  if (!Array.isArray(value)) {
    issues.wrong(place, 'a list of calls', value);
    return [];
  }
  return value.map((call, index) => readCall(call, `${place}[${index}]`, issues));
}

/** One function in JSON Schema. */
export function readTool(value: unknown, place: string, issues: Issues): JsonObject {
  const isTool = isFields(value) && isFields(value.function) && typeof value.function.name === 'string';
  if (!isTool) issues.wrong(place, 'a tool: {"type": "function", "function": {"name", "parameters"}}', value);
  else if (checkJson(value, place, issues)) return value as JsonObject;
  return {};
}

/** The functions that answers may call, in JSON Schema: a list, or its JSON text. None, null and an empty list are the same. */
export function readTools(value: unknown, issues: Issues): JsonObject[] {
  if (value === undefined || value === null) return [];
  const parsed = typeof value === 'string' ? parseJson(value) : { value };
  const list = 'flaw' in parsed ? value : parsed.value;
  if (!Array.isArray(list)) {
    issues.wrong('tools', 'a list of tools, or JSON text that holds one', list);
    return [];
  }
  return list.map((tool, index) => readTool(tool, `tools[${index}]`, issues));
}
