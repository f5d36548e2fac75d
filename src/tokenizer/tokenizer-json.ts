/**
 * The parts of Hugging Face's `tokenizer.json` that this project reads.
 *
 * `prepareTokenizerJson` refuses what the JavaScript library would silently treat otherwise than the Rust library does,
 * and rewrites components where both differ, so that ids are equal.
 */
import { TokenizerError } from './errors.ts';

export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A normalizer, pre-tokenizer, post-processor or decoder: `type` and its own fields. */
export interface ComponentJson {
  readonly type: string;
  readonly [field: string]: unknown;
}

interface BpeModelJson {
  readonly type: 'BPE';
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges: readonly (string | readonly string[])[];
  readonly unk_token?: string | null;
  readonly byte_fallback?: boolean;
  readonly fuse_unk?: boolean;
  readonly ignore_merges?: boolean;
  readonly end_of_word_suffix?: string | null;
  readonly continuing_subword_prefix?: string | null;
  readonly continuing_subword_suffix?: string | null;
}

export interface TokenizerJson {
  readonly added_tokens: readonly AddedTokenJson[];
  readonly normalizer: ComponentJson | null;
  readonly pre_tokenizer: ComponentJson | null;
  readonly post_processor: ComponentJson | null;
  readonly decoder: ComponentJson | null;
  readonly model: BpeModelJson;
}

/** GPT-2's pre-tokenizer, which byte-level tokenizers use unless they bring their own. */
export const GPT2_PATTERN = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/** A pre-tokenizer that cuts a text at the matches of a pattern and keeps both matches and gaps. */
export const isolate = (pattern: string): ComponentJson => ({
  type: 'Split',
  pattern: { Regex: pattern },
  behavior: 'Isolated',
  invert: false,
});

/** A byte-level pre-tokenizer that does not cut. */
export const BYTE_LEVEL: ComponentJson = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: false,
};

const unsupported = (message: string): never => {
  throw new TokenizerError('TOKENIZER_UNSUPPORTED', message);
};

/** The members of a `Sequence` component, or the component alone. */
export function flattenComponent(component: ComponentJson | null, membersField: string): ComponentJson[] {
  if (component === null) return [];
  if (component.type !== 'Sequence') return [component];
  const members = component[membersField];
  if (!Array.isArray(members)) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `a Sequence in tokenizer.json has no list \`${membersField}\``);
  }
  return (members as ComponentJson[]).flatMap((member) => flattenComponent(member, membersField));
}

function preparePreTokenizer(component: ComponentJson): ComponentJson[] {
  switch (component.type) {
    case 'ByteLevel': {
      const prefix = component.add_prefix_space === true;
      // The library's built-in pattern uses JavaScript's \s, which differs from Unicode's White_Space at U+0085 and U+FEFF.
      if (component.use_regex === false || prefix) return [component];
      return [isolate(GPT2_PATTERN), BYTE_LEVEL];
    }
    case 'Digits':
      // The library knows ASCII digits only; Rust's char::is_numeric is \p{N}.
      return [isolate(component.individual_digits === true ? '\\p{N}' : '\\p{N}+')];
    case 'Split': {
      const behavior = String(component.behavior);
      const inverted = component.invert === true;
      if (inverted ? behavior !== 'Removed' : behavior !== 'Isolated' && behavior !== 'Removed') {
        unsupported(
          `pre-tokenizer Split has behavior ${behavior}${inverted ? ' inverted' : ''}; Isolated, Removed and inverted Removed are supported`,
        );
      }
      return [component];
    }
    case 'Metaspace':
      if (component.split === true) unsupported('pre-tokenizer Metaspace with `split: true` is not supported with BPE');
      return [component];
    default:
      return unsupported(
        `pre-tokenizer ${component.type} is not supported; supported are ByteLevel, Digits, Metaspace, Sequence, Split`,
      );
  }
}

const NORMALIZERS = new Set(['NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'Replace', 'Lowercase', 'Strip']);

/** Checks a parsed `tokenizer.json` and gives back one whose ids the JavaScript library computes as the Rust library does. */
export function prepareTokenizerJson(raw: unknown, origin: string): TokenizerJson {
  if (typeof raw !== 'object' || raw === null) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `${origin} holds no JSON object`);
  }
  const json = raw as Partial<TokenizerJson> & {
    readonly model?: { readonly type?: string; readonly merges?: unknown };
  };
  const model = json.model;
  if (!model || typeof model !== 'object') throw new TokenizerError('TOKENIZER_CORRUPT', `${origin} has no \`model\``);
  // Files of early versions leave the type out; vocabulary plus merges is BPE.
  const type = model.type ?? (Array.isArray(model.merges) ? 'BPE' : 'none');
  if (type !== 'BPE') unsupported(`${origin}: model type ${type} is not supported; expected BPE or Unigram`);
  if (typeof model.vocab !== 'object' || model.vocab === null || !Array.isArray(model.merges)) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `${origin}: a BPE model needs \`vocab\` and \`merges\``);
  }
  for (const normalizer of flattenComponent(json.normalizer ?? null, 'normalizers')) {
    if (!NORMALIZERS.has(normalizer.type)) {
      unsupported(
        `${origin}: normalizer ${normalizer.type} is not supported; supported are ${[...NORMALIZERS].join(', ')}`,
      );
    }
  }
  const preTokenizers = flattenComponent(json.pre_tokenizer ?? null, 'pretokenizers').flatMap(preparePreTokenizer);
  return {
    added_tokens: json.added_tokens ?? [],
    normalizer: json.normalizer ?? null,
    pre_tokenizer: preTokenizers.length === 0 ? null : { type: 'Sequence', pretokenizers: preTokenizers },
    post_processor: json.post_processor ?? null,
    decoder: json.decoder ?? null,
    model: { ...model, type: 'BPE' } as BpeModelJson,
  };
}
