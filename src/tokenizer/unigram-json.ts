/** The parts of a `tokenizer.json` with a unigram model: what transformers writes for T5, XLNet and others. */
import { TokenizerError } from './errors.ts';
import type { JsonObject } from './folder-settings.ts';
import { Charsmap } from './sentencepiece/charsmap.ts';
import { type ComponentJson, flattenComponent, type TokenizerJson } from './tokenizer-json.ts';

interface UnigramModelJson {
  readonly type: 'Unigram';
  readonly vocab: readonly (readonly [piece: string, score: number])[];
  readonly unk_id?: number | null;
  readonly byte_fallback?: boolean;
}

export interface UnigramTokenizerJson extends Omit<TokenizerJson, 'model'> {
  readonly model: UnigramModelJson;
}

/** What a file may leave out. */
const EMPTY = { added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null };

/** Normalizers that are computed as the Rust library computes them. */
const NORMALIZERS = ['NFC', 'NFD', 'NFKC', 'NFKD', 'Precompiled', 'Replace', 'Strip'];
const PRE_TOKENIZERS = ['Metaspace', 'WhitespaceSplit'];

function unsupported(origin: string, kind: string, found: string, supported: readonly string[]): never {
  throw new TokenizerError(
    'TOKENIZER_UNSUPPORTED',
    `${origin}: ${kind} ${found} is not supported with a unigram model; supported are ${supported.join(', ')}`,
  );
}

function checkModel(model: UnigramModelJson, origin: string): void {
  const corrupt = (message: string): never => {
    throw new TokenizerError('TOKENIZER_CORRUPT', `${origin}: ${message}`);
  };
  if (!Array.isArray(model.vocab) || model.vocab.length === 0) corrupt('a Unigram model needs a list `vocab`');
  model.vocab.forEach((entry, id) => {
    const isEntry = Array.isArray(entry) && typeof entry[0] === 'string' && Number.isFinite(entry[1]);
    if (!isEntry) corrupt(`vocab[${id}] is ${JSON.stringify(entry)}; expected a text and a score`);
  });
  const { unk_id: unk } = model;
  const isId = typeof unk === 'number' && Number.isInteger(unk) && unk >= 0 && unk < model.vocab.length;
  if (!isId) corrupt(`unk_id is ${JSON.stringify(unk ?? null)}; expected an id of the ${model.vocab.length} pieces`);
}

/** Whether a parsed file says that its model is unigram. */
export const isUnigramFile = ({ model }: JsonObject): boolean =>
  typeof model === 'object' && model !== null && 'type' in model && model.type === 'Unigram';

/**
 * Checks a parsed file.
 * @throws TokenizerError where it is broken, or its ids would not be the Rust library's for certain
 */
export function prepareUnigramJson(raw: JsonObject, origin: string): UnigramTokenizerJson {
  const json = { ...EMPTY, ...raw } as unknown as UnigramTokenizerJson;
  checkModel(json.model, origin);
  const normalizers = flattenComponent(json.normalizer, 'normalizers');
  for (const { type } of normalizers) {
    if (!NORMALIZERS.includes(type)) unsupported(origin, 'normalizer', type, NORMALIZERS);
  }
  const preTokenizers = flattenComponent(json.pre_tokenizer, 'pretokenizers');
  for (const { type } of preTokenizers) {
    if (!PRE_TOKENIZERS.includes(type)) unsupported(origin, 'pre-tokenizer', type, PRE_TOKENIZERS);
  }
  if (preTokenizers.at(-1)?.type !== 'Metaspace' || preTokenizers.length > 2) {
    const found = preTokenizers.map(({ type }) => type).join(' + ') || 'none';
    unsupported(origin, 'pre-tokenizer', found, ['Metaspace', 'WhitespaceSplit + Metaspace']);
  }
  const normalized = json.added_tokens.find((token) => token.normalized && !token.special);
  if (normalized && normalizers.length > 0) {
    unsupported(origin, 'added token', `${JSON.stringify(normalized.content)} with normalized: true`, [
      'normalized: false',
    ]);
  }
  return json;
}

/** @throws TokenizerError where the rules are missing or broken */
export function charsmapOf(component: ComponentJson): Charsmap {
  const { precompiled_charsmap: encoded } = component;
  if (typeof encoded === 'string') return new Charsmap(Buffer.from(encoded, 'base64'));
  throw new TokenizerError('TOKENIZER_CORRUPT', 'normalizer Precompiled has no text `precompiled_charsmap`');
}
