/** The tokenizer over @huggingface/tokenizers. */
import { BaseTokenizer } from './base-tokenizer.ts';
import { pieceDecoder } from './byte-decoder.ts';
import { controlTokens } from './control-tokens.ts';
import type { TokenizerDefinition } from './definition.ts';
import { TokenizerError } from './errors.ts';
import { type LibraryTokenizer, library, NO_MODEL } from './library.ts';
import { encodePlain, type NativeBpe, nativeBpe, overNative, splitFast } from './native/bpe.ts';
import type { NativeEncoders } from './native/encoders.ts';
import { joinablePairs, PairSplit } from './pair-split.ts';
import type { EncoderKind } from './tokenizer.ts';
import { type AddedTokenJson, type ComponentJson, flattenComponent, type TokenizerJson } from './tokenizer-json.ts';

/** Whether a run of text in the middle of a text gets a space in front, as sentencepiece's does after a control token. */
type PrefixScheme = 'always' | 'first' | 'never';

function prefixScheme(json: TokenizerJson): PrefixScheme {
  if (flattenComponent(json.normalizer, 'normalizers').some((member) => member.type === 'Prepend')) return 'always';
  const metaspace = flattenComponent(json.pre_tokenizer, 'pretokenizers').find((member) => member.type === 'Metaspace');
  if (!metaspace) return 'never';
  const scheme = metaspace.prepend_scheme ?? 'always';
  return scheme === 'first' || scheme === 'never' ? scheme : 'always';
}

/** The same tokenizer without the space in front. */
function withoutPrefix(json: TokenizerJson): Pick<TokenizerJson, 'normalizer' | 'pre_tokenizer'> {
  const normalizers = flattenComponent(json.normalizer, 'normalizers').filter((member) => member.type !== 'Prepend');
  const preTokenizers = flattenComponent(json.pre_tokenizer, 'pretokenizers').map((member) =>
    member.type === 'Metaspace' ? { ...member, prepend_scheme: 'never' } : member,
  );
  const sequence = (field: string, members: ComponentJson[]): ComponentJson | null =>
    members.length === 0 ? null : { type: 'Sequence', [field]: members };
  return { normalizer: sequence('normalizers', normalizers), pre_tokenizer: sequence('pretokenizers', preTokenizers) };
}

/** The model without control tokens: neither vocabulary nor merges lead to them. */
function ordinaryModel(json: TokenizerJson, control: readonly AddedTokenJson[]): TokenizerJson['model'] {
  const contents = new Set(control.map((token) => token.content));
  const { model } = json;
  return {
    ...model,
    vocab: Object.fromEntries(Object.entries(model.vocab).filter(([token]) => !contents.has(token))),
    merges: model.merges.filter(
      (merge) => !contents.has(typeof merge === 'string' ? merge.replace(' ', '') : merge.join('')),
    ),
    unk_token: model.unk_token ?? null,
  };
}

function piecesOf(json: TokenizerJson): (string | undefined)[] {
  const pieces: (string | undefined)[] = [];
  for (const [piece, id] of Object.entries(json.model.vocab)) pieces[id] = piece;
  for (const token of json.added_tokens) pieces[token.id] = token.content;
  return pieces;
}

export class BpeTokenizer extends BaseTokenizer {
  readonly encoder: EncoderKind;
  readonly #native: NativeBpe | null;
  readonly #library: LibraryTokenizer;
  readonly #continuation: LibraryTokenizer;

  /**
   * @param encoders Take the place of the library's pre-tokenizer and model where they can.
   * @throws TokenizerError where the definition uses what is not supported
   */
  constructor(definition: TokenizerDefinition, encoders: NativeEncoders | null = null) {
    const { json } = definition;
    const control = controlTokens(definition, json.added_tokens, Object.entries(json.model.vocab));
    const scheme = prefixScheme(json);
    super({
      conventions: definition,
      pieces: piecesOf(json),
      added: json.added_tokens,
      control,
      decoder: pieceDecoder(json.decoder),
      prefixAfterControl: scheme === 'always',
    });
    const ordinary = json.added_tokens.filter((token) => !this.controlTokenIds.has(token.id));
    const libraryJson = { ...json, model: ordinaryModel(json, control), added_tokens: ordinary, post_processor: null };
    const native = encoders === null ? null : nativeBpe(encoders, libraryJson, (piece) => this.pieceToId(piece));
    this.#native = native;
    this.encoder = native === null ? 'javascript' : 'native';
    try {
      this.#library = native === null ? new library.Tokenizer(libraryJson, {}) : overNative(libraryJson, native);
      this.#continuation = scheme === 'never' ? this.#library : this.#withoutPrefix(libraryJson);
    } catch (error) {
      throw new TokenizerError('TOKENIZER_UNSUPPORTED', `the tokenizer cannot be built: ${String(error)}`, {
        cause: error,
      });
    }
    if (native === null) this.#cutLongWords(libraryJson);
  }

  /** Shares the model, which holds nearly all memory, with the tokenizer that adds a prefix. */
  #withoutPrefix(json: TokenizerJson): LibraryTokenizer {
    const unprefixed = { ...json, ...withoutPrefix(json) };
    const tokenizer = new library.Tokenizer({ ...unprefixed, model: NO_MODEL }, {});
    tokenizer.model = this.#library.model;
    if (this.encoder === 'native') splitFast(tokenizer, unprefixed);
    return tokenizer;
  }

  #cutLongWords(json: TokenizerJson): void {
    const members = flattenComponent(json.pre_tokenizer, 'pretokenizers');
    // Byte-level tokenizers cut words themselves.
    if (members.some((member) => member.type !== 'Metaspace')) return;
    const pairs = joinablePairs(json.model.merges);
    for (const tokenizer of new Set([this.#library, this.#continuation])) {
      tokenizer.pre_tokenizer = new PairSplit(pairs, tokenizer.pre_tokenizer);
    }
  }

  protected override encodeRun(text: string, prefixed: boolean, ids: number[]): void {
    const tokenizer = prefixed ? this.#library : this.#continuation;
    if (this.#native !== null && encodePlain(tokenizer, this.#native, text, ids)) return;
    for (const token of tokenizer.tokenize(text)) {
      if (typeof token !== 'string') {
        for (const id of token) ids.push(id);
        continue;
      }
      const id = this.pieceToId(token);
      if (id !== null) ids.push(id);
    }
  }
}
