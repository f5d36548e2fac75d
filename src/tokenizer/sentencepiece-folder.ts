/** A folder with `tokenizer.model` to a tokenizer definition, as the Python classes of such folders have it. */
import { join } from 'node:path';
import { plainToken } from './control-tokens.ts';
import type { SentencePieceDefinition } from './definition.ts';
import {
  configuredTokens,
  type FolderSettings,
  generationEos,
  type JsonObject,
  readJson,
  tokenContent,
  tokenId,
} from './folder-settings.ts';
import type { SentencePieceModel } from './sentencepiece/model.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

/** Tokens that ChatGLM2's and ChatGLM3's Python class numbers behind the pieces; ChatGLM2 never uses the last four. */
const CHATGLM_TOKENS = [
  ...['[MASK]', '[gMASK]', '[sMASK]', 'sop', 'eop'],
  ...['<|system|>', '<|user|>', '<|assistant|>', '<|observation|>'],
];
const CHATGLM_PREFIX = ['[gMASK]', 'sop'];
/** What ChatGLM3 begins the next turn with. */
const CHATGLM_STOPS = ['<|user|>', '<|observation|>'];

const isChatGlm = (config: JsonObject): boolean => config.tokenizer_class === 'ChatGLMTokenizer';

/**
 * Llama's class with `legacy: false` encodes a text once: the space stands in front of the whole, whatever the model
 * says, and not behind special tokens. Every other class encodes what stands between special tokens bit by bit.
 */
const isWhole = (config: JsonObject): boolean =>
  config.legacy === false && /^(Code)?Llama/.test(String(config.tokenizer_class ?? 'LlamaTokenizer'));

async function addedTokens(folder: string, model: SentencePieceModel, config: JsonObject): Promise<AddedTokenJson[]> {
  const named = isChatGlm(config) ? CHATGLM_TOKENS : [];
  const path = join(folder, 'added_tokens.json');
  const added = Object.entries((await readJson(path)) ?? {});
  const tokens = new Map<string, AddedTokenJson>();
  for (const token of [
    ...named.map((content, index) => plainToken(model.pieces.length + index, content, true)),
    ...added.map(([content, id]) => plainToken(tokenId(id, path), content, false)),
    ...configuredTokens(config),
  ]) {
    if (token.content === '') continue;
    tokens.set(token.content, { ...token, special: token.special || tokens.get(token.content)?.special === true });
  }
  const additional = Array.isArray(config.additional_special_tokens) ? config.additional_special_tokens : [];
  for (const content of additional.map(tokenContent)) {
    const known = content === null ? undefined : tokens.get(content);
    const piece = known === undefined && content !== null ? model.pieces.indexOf(content) : -1;
    if (known) tokens.set(known.content, { ...known, special: true });
    else if (content !== null && piece >= 0) tokens.set(content, plainToken(piece, content, true));
  }
  return [...tokens.values()];
}

/** Ids of `generation_config.json` that begin a turn (Baichuan2's 195 and 196). */
function turnTokenIds(generation: JsonObject | null): number[] {
  const values = [generation?.user_token_id, generation?.assistant_token_id];
  return values.filter((id): id is number => typeof id === 'number');
}

/**
 * A sentencepiece model with what its folder's other files add.
 *
 * @throws TokenizerError where a file is broken
 */
export async function sentencePieceDefinition(
  folder: string,
  model: SentencePieceModel,
  { config, generation, chatTemplate }: FolderSettings,
): Promise<SentencePieceDefinition> {
  const added = await addedTokens(folder, model, config);
  const idOf = (content: string | null): number | null => {
    if (content === null) return null;
    const id = added.find((token) => token.content === content)?.id ?? model.pieces.indexOf(content);
    return id < 0 ? null : id;
  };
  const named = (field: string, otherwise: number | null): number | null =>
    field in config ? idOf(tokenContent(config[field])) : otherwise;
  const chatGlm = isChatGlm(config);
  const whole = isWhole(config);
  const bos = named('bos_token', model.bosId);
  const eos = chatGlm ? model.eosId : named('eos_token', model.eosId);
  const present = (ids: readonly (number | null)[]): number[] => ids.filter((id) => id !== null);
  const prefix = chatGlm ? CHATGLM_PREFIX.map(idOf) : config.add_bos_token === false ? [] : [bos];
  return {
    model: whole
      ? { ...model, normalizer: { ...model.normalizer, addDummyPrefix: config.add_prefix_space !== false } }
      : model,
    addedTokens: added,
    turnTokenIds: turnTokenIds(generation),
    unreachableTokenIds: [],
    prefixAfterControl: !whole,
    bosTokenId: bos,
    eosTokenId: eos,
    padTokenId: chatGlm ? model.unkId : named('pad_token', model.padId),
    unkTokenId: chatGlm ? model.unkId : named('unk_token', model.unkId),
    endOfGenerationTokenIds: [
      ...new Set([...present([eos, ...(chatGlm ? CHATGLM_STOPS.map(idOf) : [])]), ...generationEos(generation)]),
    ],
    prefixTokenIds: present(prefix),
    suffixTokenIds: !chatGlm && config.add_eos_token === true ? present([eos]) : [],
    chatTemplate,
  };
}
