/** `--prompt`, `--messages` and `--token-ids`: what a model reads, from flags. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { Conversation, DeepPartial, Message, Prompt, ToolCall } from '../../typescript/src/index.ts';
import { CliError } from './failure.ts';
import { TEMPLATE_VALUE, templateOf } from './template-argument.ts';

export interface PromptOptions {
  readonly prompt?: string;
  readonly messages?: string;
  readonly tokenIds?: string;
  readonly template?: string;
  readonly allowTemplateMismatch?: boolean;
  readonly parseSpecial?: boolean;
}

/** Adds the options that say what a model reads. */
export function withPrompt(command: Command): Command {
  return command
    .option('--prompt <text>', 'text, read as it is')
    .option('--messages <file>', 'JSON file with messages: [{"role": "user", "content": "…"}]; - reads standard input')
    .option('--token-ids <ids>', 'exact token ids: 1,2,3')
    .option('--parse-special', 'with --prompt: control tokens written in the text become control tokens')
    .option(
      `--template ${TEMPLATE_VALUE}`,
      "with --messages: a template's id or file (default: the adapter's, else the model's own)",
    )
    .option('--allow-template-mismatch', 'with --messages: use another template than the adapter was trained with');
}

/** Ids separated by commas or spaces. */
export function parseTokenIds(text: string): number[] {
  const parts = text.split(/[\s,]+/).filter((part) => part !== '');
  const ids = parts.map(Number);
  if (ids.length === 0 || ids.some((id) => !Number.isInteger(id) || id < 0 || id > 0xffff_ffff)) {
    throw new CliError(`expected token ids such as 1,2,3; found ${JSON.stringify(text)}`);
  }
  return ids;
}

type Fields = Record<string, unknown>;

const fieldsOf = (value: unknown): Fields => (typeof value === 'object' && value !== null ? value : {}) as Fields;

/** JSON as text; text as it is. */
const jsonText = (value: unknown): string => (typeof value === 'string' ? value : (JSON.stringify(value) ?? ''));

function toolCallOf(value: unknown): ToolCall {
  const { id, function: called } = fieldsOf(value);
  const { name, arguments: given } = fieldsOf(called);
  return { id: typeof id === 'string' ? id : '', name: String(name ?? ''), arguments: jsonText(given) };
}

/** A message as data sets have it; null: it is none. */
function messageOf(value: unknown): Message | null {
  const { role, content, ...fields } = fieldsOf(value);
  const toolCalls = Array.isArray(fields.tool_calls) ? fields.tool_calls.map(toolCallOf) : [];
  const text = content === null || content === undefined ? '' : content;
  if (typeof role !== 'string' || typeof text !== 'string' || (typeof content !== 'string' && toolCalls.length === 0)) {
    return null;
  }
  const optional = (key: string): string | undefined => {
    const given = fields[key];
    return typeof given === 'string' ? given : undefined;
  };
  return {
    role,
    content: text,
    weight: undefined,
    toolCalls,
    reasoningContent: optional('reasoning_content'),
    toolCallId: optional('tool_call_id'),
    name: optional('name'),
  };
}

/** A conversation of a JSON file: an array of messages, or an object that has one as `messages`, and maybe `tools`. */
export function readConversation(path: string): Conversation {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path === '-' ? 0 : path, 'utf8'));
  } catch (error) {
    throw new CliError(`--messages ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { messages: list = parsed, tools } = fieldsOf(parsed);
  if (!Array.isArray(list) || list.length === 0) {
    throw new CliError(`--messages ${path}: expected a JSON array of messages, or an object with one as "messages"`);
  }
  const messages = list.map((item: unknown, index): Message => {
    const message = messageOf(item);
    if (message !== null) return message;
    throw new CliError(`--messages ${path}: messages[${index}] needs "role" and "content", both text`);
  });
  return { messages, tools: Array.isArray(tools) ? tools.map(jsonText) : [] };
}

/** The prompt that exactly one of the options gives. */
export function promptOf(options: PromptOptions): DeepPartial<Prompt> {
  const given = [options.prompt, options.messages, options.tokenIds].filter((value) => value !== undefined).length;
  if (given !== 1) throw new CliError('give exactly one of --prompt, --messages and --token-ids');
  const rendering = {
    parseSpecial: options.parseSpecial ?? false,
    template: templateOf(options.template ?? ''),
    allowTemplateMismatch: options.allowTemplateMismatch ?? false,
  };
  if (options.prompt !== undefined) return { input: { $case: 'text', value: options.prompt }, ...rendering };
  if (options.tokenIds !== undefined) {
    return { input: { $case: 'tokenIds', value: { ids: parseTokenIds(options.tokenIds) } }, ...rendering };
  }
  return { input: { $case: 'messages', value: readConversation(options.messages ?? '') }, ...rendering };
}
