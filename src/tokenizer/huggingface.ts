/** A Hugging Face folder to a tokenizer definition. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TokenizerDefinition } from './definition.ts';
import { TokenizerError } from './errors.ts';
import { flattenComponent, prepareTokenizerJson, type TokenizerJson } from './tokenizer-json.ts';

type JsonObject = Readonly<Record<string, unknown>>;

async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) return null;
    throw error;
  }
}

async function readJson(path: string): Promise<JsonObject | null> {
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
function tokenContent(value: unknown): string | null {
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

/** What the post-processor puts around one text: ids in front, ids behind. */
function surroundings(json: TokenizerJson): { prefix: number[]; suffix: number[] } {
  const template = flattenComponent(json.post_processor, 'processors').find(
    (member) => member.type === 'TemplateProcessing',
  );
  const prefix: number[] = [];
  const suffix: number[] = [];
  if (!template) return { prefix, suffix };
  const specials = template.special_tokens as
    | Readonly<Record<string, { readonly ids?: readonly number[] }>>
    | undefined;
  let target = prefix;
  for (const item of (template.single ?? []) as readonly { SpecialToken?: { id: string }; Sequence?: unknown }[]) {
    if (item.Sequence) target = suffix;
    else if (item.SpecialToken) target.push(...(specials?.[item.SpecialToken.id]?.ids ?? []));
  }
  return { prefix, suffix };
}

/** `add_bos_token`/`add_eos_token` of the config win over the post-processor, as in transformers' Llama tokenizer. */
function withConfigured(ids: number[], id: number | null, configured: unknown): number[] {
  if (typeof configured !== 'boolean' || id === null) return ids;
  const others = ids.filter((other) => other !== id);
  return configured ? [id, ...others] : others;
}

function addConfigTokens(json: TokenizerJson, config: JsonObject): TokenizerJson {
  const decoder = config.added_tokens_decoder;
  if (typeof decoder !== 'object' || decoder === null) return json;
  const known = new Set(json.added_tokens.map((token) => token.id));
  const more = Object.entries(decoder as Record<string, Record<string, unknown>>)
    .filter(([id]) => !known.has(Number(id)))
    .map(([id, token]) => ({
      id: Number(id),
      content: tokenContent(token) ?? '',
      single_word: token.single_word === true,
      lstrip: token.lstrip === true,
      rstrip: token.rstrip === true,
      normalized: token.normalized === true,
      special: token.special === true,
    }));
  return { ...json, added_tokens: [...json.added_tokens, ...more] };
}

/** EOS ids of `generation_config.json`: often more than the tokenizer's one, such as Llama 3's end of turn. */
function generationEos(config: JsonObject | null): number[] {
  const value = config?.eos_token_id;
  if (typeof value === 'number') return [value];
  return Array.isArray(value) ? value.filter((id): id is number => typeof id === 'number') : [];
}

/**
 * Reads `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json` of a folder.
 *
 * @throws TokenizerError where `tokenizer.json` is missing, broken or uses what is not supported
 */
export async function huggingFaceTokenizerDefinition(folder: string): Promise<TokenizerDefinition> {
  const path = join(folder, 'tokenizer.json');
  const raw = await readJson(path);
  if (raw === null) {
    throw new TokenizerError(
      'TOKENIZER_NOT_FOUND',
      `${path} does not exist; a Hugging Face folder needs tokenizer.json (a folder with tokenizer.model only: save it with transformers' fast tokenizer first)`,
    );
  }
  const config = (await readJson(join(folder, 'tokenizer_config.json'))) ?? {};
  const json = addConfigTokens(prepareTokenizerJson(raw, path), config);
  const ids = new Map(json.added_tokens.map((token) => [token.content, token.id]));
  const idOf = (value: unknown): number | null => {
    const content = tokenContent(value);
    return content === null ? null : (ids.get(content) ?? json.model.vocab[content] ?? null);
  };
  const bos = idOf(config.bos_token);
  const eos = idOf(config.eos_token);
  const around = surroundings(json);
  const generation = generationEos(await readJson(join(folder, 'generation_config.json')));
  return {
    json,
    bosTokenId: bos,
    eosTokenId: eos,
    padTokenId: idOf(config.pad_token),
    unkTokenId: idOf(config.unk_token) ?? idOf(json.model.unk_token),
    endOfGenerationTokenIds: [...new Set([...(eos === null ? [] : [eos]), ...generation])],
    prefixTokenIds: withConfigured(around.prefix, bos, config.add_bos_token),
    suffixTokenIds: withConfigured(around.suffix, eos, config.add_eos_token),
    chatTemplate: (await readText(join(folder, 'chat_template.jinja'))) ?? chatTemplate(config.chat_template),
  };
}
