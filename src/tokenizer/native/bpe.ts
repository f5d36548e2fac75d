/** The model of a `tokenizer.json` in the addon: what pre-tokenizer and BPE do, in one step. */
import { BYTE_OF_CHARACTER } from '../byte-decoder.ts';
import { ControlSplitter } from '../control-splitter.ts';
import { type LibraryTokenizer, library, NO_MODEL } from '../library.ts';
import { type AddedTokenJson, type ComponentJson, flattenComponent, type TokenizerJson } from '../tokenizer-json.ts';
import type { NativeEncoders, NativeSplitPattern, NativeVocabulary } from './encoders.ts';
import { IdRoom } from './id-room.ts';
import { nativeSplitPattern } from './split-pattern.ts';

/** A model that takes the library's place. */
export interface NativeBpe {
  /** What stays with the library. */
  readonly preTokenizer: ComponentJson | null;
  /** Appends the ids of a text. */
  encode(text: string, ids: number[]): void;
}

/** Null where some token has no id of its own. */
function vocabularyOf(json: TokenizerJson, idOf: (piece: string) => number | null): NativeVocabulary | null {
  // The library knows added tokens as its vocabulary's, too.
  const tokens = [...new Set([...Object.keys(json.model.vocab), ...json.added_tokens.map(({ content }) => content)])];
  const ids = tokens.map(idOf);
  if (ids.includes(null)) return null;
  const merges = json.model.merges.map((merge) => (typeof merge === 'string' ? merge.split(' ', 2) : merge));
  return {
    tokens,
    ids: Uint32Array.from(ids as number[]),
    mergeLeft: merges.map(([left = '']) => left),
    mergeRight: merges.map(([, right = '']) => right),
  };
}

/** The patterns in front of a `ByteLevel` that does not cut; null for other pre-tokenizers. */
function byteLevelPatterns(members: readonly ComponentJson[]): NativeSplitPattern[] | null {
  const last = members.at(-1);
  if (last?.type !== 'ByteLevel' || last.use_regex !== false || last.add_prefix_space === true) return null;
  const patterns = members.slice(0, -1).map((member) => {
    if (member.type !== 'Split' || member.behavior !== 'Isolated' || member.invert === true) return null;
    const { pattern } = new library.SplitPreTokenizer(member);
    return pattern === null ? null : nativeSplitPattern(pattern.source);
  });
  return patterns.some((pattern) => pattern === null) ? null : (patterns as NativeSplitPattern[]);
}

/** Whether there are bytes that no token writes: the library has UNK for them, or nothing. */
const hasUnknownBytes = ({ model }: TokenizerJson): boolean =>
  [...BYTE_OF_CHARACTER.keys()].some((character) => !Object.hasOwn(model.vocab, character));

/**
 * @param json Without control tokens.
 * @returns Null where the addon would not give the library's ids for certain.
 */
export function nativeBpe(
  encoders: NativeEncoders,
  json: TokenizerJson,
  idOf: (piece: string) => number | null,
): NativeBpe | null {
  const { model } = json;
  const members = flattenComponent(json.pre_tokenizer, 'pretokenizers');
  if (model.end_of_word_suffix || model.continuing_subword_suffix) return null;
  const isMetaspace = members.every((member) => member.type === 'Metaspace');
  const patterns = isMetaspace ? null : byteLevelPatterns(members);
  if (isMetaspace && (model.byte_fallback !== true || model.ignore_merges === true)) return null;
  if (!isMetaspace && (patterns === null || model.byte_fallback === true)) return null;
  if (!isMetaspace && typeof model.unk_token === 'string' && hasUnknownBytes(json)) return null;
  const vocabulary = vocabularyOf(json, idOf);
  if (vocabulary === null) return null;
  try {
    const encoder =
      patterns === null
        ? new encoders.NativeCharacterEncoder(vocabulary)
        : new encoders.NativeByteLevelEncoder(vocabulary, model.ignore_merges === true, patterns);
    const room = new IdRoom();
    return {
      preTokenizer: isMetaspace ? json.pre_tokenizer : null,
      encode: (text, ids) => room.append(ids, (list) => encoder.encode(text, list)),
    };
  } catch {
    return null;
  }
}

/** What the library's splitter does, by one regular expression instead of character by character. */
function splitterOf(tokens: readonly AddedTokenJson[]): LibraryTokenizer['splitter_normalized'] {
  const splitter = new ControlSplitter(tokens);
  return {
    split: (text) => {
      const pieces: string[] = [];
      let at = 0;
      for (const { start, end } of splitter.find(text)) {
        if (start > at) pieces.push(text.slice(at, start));
        pieces.push(text.slice(start, end));
        at = end;
      }
      if (at < text.length) pieces.push(text.slice(at));
      return pieces;
    },
  };
}

/**
 * Lets a tokenizer of the library find added tokens by `splitterOf`.
 * @param json What it was made from.
 */
export function splitFast(
  tokenizer: LibraryTokenizer,
  { added_tokens: tokens, normalizer }: Pick<TokenizerJson, 'added_tokens' | 'normalizer'>,
): void {
  const isNormalized = (token: AddedTokenJson): boolean => token.normalized && normalizer !== null;
  tokenizer.splitter_unnormalized = splitterOf(tokens.filter((token) => !isNormalized(token)));
  // Their texts are normalized by the library.
  if (!tokens.some(isNormalized)) tokenizer.splitter_normalized = splitterOf([]);
}

/**
 * Encodes texts that the library has nothing to do with: where nothing is normalized, those without added tokens.
 * @returns Whether the ids were appended.
 */
export function encodePlain(tokenizer: LibraryTokenizer, native: NativeBpe, text: string, ids: number[]): boolean {
  if (tokenizer.normalizer !== null || native.preTokenizer !== null || text === '') return false;
  if (tokenizer.splitter_unnormalized.split(text).length > 1 || tokenizer.added_tokens_map.has(text)) return false;
  native.encode(text, ids);
  return true;
}

/** The library finds added tokens and normalizes; the rest is the addon's. */
export function overNative(json: TokenizerJson, native: NativeBpe): LibraryTokenizer {
  const tokenizer = new library.Tokenizer({ ...json, pre_tokenizer: native.preTokenizer, model: NO_MODEL }, {});
  tokenizer.model = (words: readonly string[]) => {
    const ids: number[] = [];
    for (const word of words) native.encode(word, ids);
    return [Uint32Array.from(ids)];
  };
  splitFast(tokenizer, json);
  return tokenizer;
}
