/** A folder with `tokenizer.json` to a tokenizer definition. */
import type { TokenizerDefinition, UnigramDefinition } from './definition.ts';
import {
  configuredTokens,
  type FolderSettings,
  generationEos,
  type JsonObject,
  tokenContent,
} from './folder-settings.ts';
import { flattenComponent, prepareTokenizerJson, type TokenizerJson } from './tokenizer-json.ts';
import { isUnigramFile, prepareUnigramJson, type UnigramTokenizerJson } from './unigram-json.ts';

type AnyTokenizerJson = TokenizerJson | UnigramTokenizerJson;

const isUnigram = (json: AnyTokenizerJson): json is UnigramTokenizerJson => json.model.type === 'Unigram';

const prepare = (raw: JsonObject, path: string): AnyTokenizerJson =>
  isUnigramFile(raw) ? prepareUnigramJson(raw, path) : prepareTokenizerJson(raw, path);

const vocabularyOf = ({ model }: AnyTokenizerJson): ReadonlyMap<string, number> =>
  new Map(model.type === 'BPE' ? Object.entries(model.vocab) : model.vocab.map(([piece], id) => [piece, id]));

/** What the post-processor puts around one text: ids in front, ids behind. */
function surroundings(json: AnyTokenizerJson): { prefix: number[]; suffix: number[] } {
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

function addConfigTokens<Json extends AnyTokenizerJson>(json: Json, config: JsonObject): Json {
  const known = new Set(json.added_tokens.map((token) => token.id));
  const more = configuredTokens(config).filter((token) => !known.has(token.id));
  return more.length === 0 ? json : { ...json, added_tokens: [...json.added_tokens, ...more] };
}

/**
 * A folder's `tokenizer.json`, with what its other files add.
 *
 * @param raw the parsed file
 * @param path its name, for errors
 * @throws TokenizerError where it is broken or uses what is not supported
 */
export function tokenizerJsonDefinition(
  raw: JsonObject,
  path: string,
  settings: FolderSettings,
): TokenizerDefinition | UnigramDefinition {
  const { config } = settings;
  const json: AnyTokenizerJson = addConfigTokens(prepare(raw, path), config);
  const vocabulary = vocabularyOf(json);
  const ids = new Map(json.added_tokens.map((token) => [token.content, token.id]));
  const idOf = (value: unknown): number | null => {
    const content = tokenContent(value);
    return content === null ? null : (ids.get(content) ?? vocabulary.get(content) ?? null);
  };
  const bos = idOf(config.bos_token);
  const eos = idOf(config.eos_token);
  const around = surroundings(json);
  const { model } = json;
  const unknown = model.type === 'BPE' ? idOf(model.unk_token) : (model.unk_id ?? null);
  const conventions = {
    bosTokenId: bos,
    eosTokenId: eos,
    padTokenId: idOf(config.pad_token),
    unkTokenId: idOf(config.unk_token) ?? unknown,
    endOfGenerationTokenIds: [...new Set([...(eos === null ? [] : [eos]), ...generationEos(settings.generation)])],
    prefixTokenIds: withConfigured(around.prefix, bos, config.add_bos_token),
    suffixTokenIds: withConfigured(around.suffix, eos, config.add_eos_token),
    chatTemplate: settings.chatTemplate,
  };
  return isUnigram(json) ? { ...conventions, json } : { ...conventions, json };
}
