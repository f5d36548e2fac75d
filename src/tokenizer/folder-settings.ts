/** The files of a Hugging Face folder that say something about its tokenizer, whatever kind that is. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { plainToken } from './control-tokens.ts';
import { TokenizerError } from './errors.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** A file's bytes; null where it does not exist. */
export async function readBytes(path: string): Promise<Buffer | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return null;
    throw error;
  }
}

async function readText(path: string): Promise<string | null> {
  return (await readBytes(path))?.toString('utf8') ?? null;
}

/**
 * A file's JSON object; null where it does not exist.
 *
 * @throws TokenizerError where it holds something else
 */
export async function readJson(path: string): Promise<JsonObject | null> {
  const text = await readText(path);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `${path} is not valid JSON: ${String(error)}`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      `${path} holds ${Array.isArray(value) ? 'a list' : typeof value}; expected an object`,
    );
  }
  return value as JsonObject;
}

/** A token's text in a config: a string, or an object with `content`. */
export function tokenContent(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (typeof value === 'object' && value !== null && 'content' in value && typeof value.content === 'string')
    return value.content;
  return null;
}

/** The template named `default` where a config lists several. */
function chatTemplate(value: unknown): string | null {
  if (typeof value === 'string') return value;
  if (!Array.isArray(value)) return null;
  const named = value as { readonly name?: unknown; readonly template?: unknown }[];
  const template = (named.find((entry) => entry.name === 'default') ?? named[0])?.template;
  return typeof template === 'string' ? template : null;
}

/** Above every real vocabulary; ids beyond would cost memory. */
const MAX_TOKEN_ID = 2 ** 24;

/** `added_tokens_decoder` of `tokenizer_config.json`. */
export function configuredTokens(config: JsonObject): AddedTokenJson[] {
  const decoder = config.added_tokens_decoder;
  if (typeof decoder !== 'object' || decoder === null) return [];
  return Object.entries(decoder as Record<string, Record<string, unknown>>).map(([id, token]) => ({
    ...plainToken(tokenId(id, 'added_tokens_decoder'), tokenContent(token) ?? '', token.special === true),
    single_word: token.single_word === true,
    lstrip: token.lstrip === true,
    rstrip: token.rstrip === true,
    normalized: token.normalized === true,
  }));
}

/**
 * An id that a file states.
 *
 * @throws TokenizerError where it is no id
 */
export function tokenId(value: unknown, origin: string): number {
  const id = Number(value);
  if (Number.isInteger(id) && id >= 0 && id < MAX_TOKEN_ID) return id;
  throw new TokenizerError(
    'TOKENIZER_CORRUPT',
    `${origin} holds the token id ${JSON.stringify(value)}; expected an integer from 0 to ${MAX_TOKEN_ID - 1}`,
  );
}

/** EOS ids of `generation_config.json`: often more than the tokenizer's one, such as Llama 3's end of turn. */
export function generationEos(config: JsonObject | null): number[] {
  const value = config?.eos_token_id;
  if (typeof value === 'number') return [value];
  return Array.isArray(value) ? value.filter((id): id is number => typeof id === 'number') : [];
}

/** What a folder says beside its vocabulary. */
export interface FolderSettings {
  /** `tokenizer_config.json`; what it leaves out comes from `special_tokens_map.json`. */
  readonly config: JsonObject;
  /** `generation_config.json`. */
  readonly generation: JsonObject | null;
  readonly chatTemplate: string | null;
}

/** @throws TokenizerError where a file is broken */
export async function readFolderSettings(folder: string): Promise<FolderSettings> {
  const json = (name: string): Promise<JsonObject | null> => readJson(join(folder, name));
  const config = { ...(await json('special_tokens_map.json')), ...(await json('tokenizer_config.json')) };
  const template = await readText(join(folder, 'chat_template.jinja'));
  const ofJson = template === null ? chatTemplate((await json('chat_template.json'))?.chat_template) : null;
  return {
    config,
    generation: await json('generation_config.json'),
    chatTemplate: template ?? ofJson ?? chatTemplate(config.chat_template),
  };
}
