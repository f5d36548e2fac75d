/** `--prompt`, `--messages` and `--token-ids`: what a model reads, from flags. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import type { DeepPartial, Message, Prompt } from '../../typescript/src/index.ts';
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

/** Messages of a JSON file: an array, or an object that has one as `messages`. */
export function readMessages(path: string): Message[] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(path === '-' ? 0 : path, 'utf8'));
  } catch (error) {
    throw new CliError(`--messages ${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  const list: unknown =
    typeof parsed === 'object' && parsed !== null && 'messages' in parsed ? parsed.messages : parsed;
  if (!Array.isArray(list) || list.length === 0) {
    throw new CliError(`--messages ${path}: expected a JSON array of messages, or an object with one as "messages"`);
  }
  return list.map((item: unknown, index): Message => {
    const { role, content } = (typeof item === 'object' && item !== null ? item : {}) as Record<string, unknown>;
    if (typeof role === 'string' && typeof content === 'string') return { role, content, weight: undefined };
    throw new CliError(`--messages ${path}: messages[${index}] needs "role" and "content", both text`);
  });
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
  const messages = readMessages(options.messages ?? '');
  return { input: { $case: 'messages', value: { messages } }, ...rendering };
}
