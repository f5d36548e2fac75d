/**
 * The tokenizer over @huggingface/tokenizers. The library never sees a control token: it only encodes runs of ordinary
 * text. Control tokens are found by `ControlSplitter`, and only on request, so text cannot reach them by any path.
 */
import { type PieceDecoder, pieceDecoder } from './byte-decoder.ts';
import { ControlSplitter } from './control-splitter.ts';
import { controlTokens } from './control-tokens.ts';
import type { TokenizerDefinition } from './definition.ts';
import { TokenizerError } from './errors.ts';
import { type LibraryTokenizer, library } from './library.ts';
import { joinablePairs, PairSplit } from './pair-split.ts';
import type {
  ControlTokenMatch,
  DecodeOptions,
  EncodeOptions,
  SpecialTokens,
  Tokenizer,
  TokenPiece,
} from './tokenizer.ts';
import { type AddedTokenJson, type ComponentJson, flattenComponent, type TokenizerJson } from './tokenizer-json.ts';

const EMPTY = new Uint8Array(0);
const encoder = new TextEncoder();

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

export class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly padTokenId: number | null;
  readonly unkTokenId: number | null;
  readonly endOfGenerationTokenIds: readonly number[];
  readonly controlTokenIds: ReadonlySet<number>;
  readonly prefixTokenIds: readonly number[];
  readonly chatTemplate: string | null;
  readonly specialTokens: SpecialTokens;
  readonly stripsLeadingSpace: boolean;

  readonly #suffixTokenIds: readonly number[];
  readonly #prefixScheme: PrefixScheme;
  readonly #library: LibraryTokenizer;
  readonly #continuation: LibraryTokenizer;
  readonly #splitter: ControlSplitter;
  readonly #decoder: PieceDecoder;
  readonly #pieces: (string | undefined)[] = [];
  readonly #ids = new Map<string, number>();
  readonly #addedContents = new Map<number, string>();
  readonly #bytes: (Uint8Array | undefined)[] = [];

  /** @throws TokenizerError where the definition uses what is not supported */
  constructor(definition: TokenizerDefinition) {
    const { json } = definition;
    const control = controlTokens(definition);
    this.controlTokenIds = new Set(control.map((token) => token.id));
    for (const [piece, id] of Object.entries(json.model.vocab)) this.#pieces[id] = piece;
    for (const token of json.added_tokens) {
      this.#pieces[token.id] = token.content;
      this.#addedContents.set(token.id, token.content);
    }
    for (const token of control) this.#addedContents.set(token.id, token.content);
    this.#pieces.forEach((piece, id) => {
      if (piece !== undefined && !this.#ids.has(piece)) this.#ids.set(piece, id);
    });
    this.vocabSize = this.#pieces.length;
    this.#decoder = pieceDecoder(json.decoder);
    this.stripsLeadingSpace = this.#decoder.stripsLeadingSpace;
    this.#prefixScheme = prefixScheme(json);
    this.#splitter = new ControlSplitter(control);
    this.#suffixTokenIds = definition.suffixTokenIds;
    this.bosTokenId = definition.bosTokenId;
    this.eosTokenId = definition.eosTokenId;
    this.padTokenId = definition.padTokenId;
    this.unkTokenId = definition.unkTokenId;
    this.endOfGenerationTokenIds = definition.endOfGenerationTokenIds;
    this.prefixTokenIds = definition.prefixTokenIds;
    this.chatTemplate = definition.chatTemplate;
    const piece = (id: number | null): string | null => (id === null ? null : (this.#pieces[id] ?? null));
    this.specialTokens = {
      bos_token: piece(this.bosTokenId),
      eos_token: piece(this.eosTokenId),
      unk_token: piece(this.unkTokenId),
      pad_token: piece(this.padTokenId),
    };

    const ordinary = json.added_tokens.filter((token) => !this.controlTokenIds.has(token.id));
    const libraryJson = { ...json, model: ordinaryModel(json, control), added_tokens: ordinary, post_processor: null };
    try {
      this.#library = new library.Tokenizer(libraryJson, {});
      this.#continuation = this.#prefixScheme === 'never' ? this.#library : this.#withoutPrefix(libraryJson);
    } catch (error) {
      throw new TokenizerError('TOKENIZER_UNSUPPORTED', `the tokenizer cannot be built: ${String(error)}`, {
        cause: error,
      });
    }
    this.#cutLongWords(libraryJson);
  }

  /** Shares the model, which holds nearly all memory, with the tokenizer that adds a prefix. */
  #withoutPrefix(json: TokenizerJson): LibraryTokenizer {
    const shell = { ...json, ...withoutPrefix(json), model: { type: 'BPE', vocab: {}, merges: [] } };
    const tokenizer = new library.Tokenizer(shell, {});
    tokenizer.model = this.#library.model;
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

  #encodeRun(text: string, prefixed: boolean, out: number[]): void {
    const tokenizer = prefixed ? this.#library : this.#continuation;
    for (const token of tokenizer.tokenize(text)) {
      const id = this.#ids.get(token);
      if (id !== undefined) out.push(id);
    }
  }

  #isPrefixed(after: 'start' | 'text' | 'control'): boolean {
    return after === 'start' || (after === 'control' && this.#prefixScheme === 'always');
  }

  findControlTokens(text: string, literalMark?: string): ControlTokenMatch[] {
    return this.#splitter.find(text, literalMark);
  }

  encode(text: string, options: EncodeOptions = {}): Uint32Array {
    // A lone surrogate has no UTF-8; U+FFFD takes its place, as everywhere on the web.
    const wellFormed = text.toWellFormed();
    const ids: number[] = options.addSpecialTokens === true ? [...this.prefixTokenIds] : [];
    const prefixed = this.#isPrefixed(options.after ?? 'start');
    if (options.parseSpecial !== true) {
      if (wellFormed.length > 0) this.#encodeRun(wellFormed, prefixed, ids);
    } else {
      this.#splitter.split(wellFormed, options.literalMark).forEach((section, index) => {
        if ('id' in section) ids.push(section.id);
        else this.#encodeRun(section.text, index === 0 ? prefixed : this.#isPrefixed('control'), ids);
      });
    }
    if (options.addSpecialTokens === true) ids.push(...this.#suffixTokenIds);
    return Uint32Array.from(ids);
  }

  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const parts: Uint8Array[] = [];
    for (const id of Array.from(ids)) {
      if (options.skipSpecialTokens === true && this.controlTokenIds.has(id)) continue;
      parts.push(this.idToBytes(id));
    }
    const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(parts));
    return this.stripsLeadingSpace && options.continuation !== true && text.startsWith(' ') ? text.slice(1) : text;
  }

  idToPiece(id: number): string | null {
    return this.#pieces[id] ?? null;
  }

  pieceToId(piece: string): number | null {
    return this.#ids.get(piece) ?? null;
  }

  idToBytes(id: number): Uint8Array {
    const known = this.#bytes[id];
    if (known) return known;
    const piece = this.#pieces[id];
    if (piece === undefined) return EMPTY;
    const added = this.#addedContents.get(id);
    const bytes = added === undefined ? this.#decoder.bytes(piece) : encoder.encode(added);
    this.#bytes[id] = bytes;
    return bytes;
  }

  pieces(ids: ArrayLike<number>): TokenPiece[] {
    return Array.from(ids, (id) => {
      const { text, partial } = showBytes(this.idToBytes(id));
      return { id, text, partial, control: this.controlTokenIds.has(id) };
    });
  }
}

/** Valid characters as they are, every other byte as `<0xE4>`. */
function showBytes(bytes: Uint8Array): { text: string; partial: boolean } {
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes), partial: false };
  } catch {
    // Not UTF-8 as a whole: character by character.
  }
  let text = '';
  let start = 0;
  while (start < bytes.length) {
    const lead = bytes[start] ?? 0;
    const length = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    try {
      text += new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes.subarray(start, start + length));
      start += length;
    } catch {
      text += `<0x${lead.toString(16).toUpperCase().padStart(2, '0')}>`;
      start += 1;
    }
  }
  return { text, partial: true };
}
