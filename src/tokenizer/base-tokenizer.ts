/**
 * What tokenizers of every kind share. The encoder of a kind never sees a control token: it only encodes runs of ordinary
 * text. Control tokens are found by `ControlSplitter`, and only on request, so text cannot reach them by any path.
 */
import type { PieceDecoder } from './byte-decoder.ts';
import { ControlSplitter } from './control-splitter.ts';
import type { TokenizerConventions } from './definition.ts';
import { DetokenizerStream } from './detokenizer-stream.ts';
import { RunCache } from './run-cache.ts';
import type {
  ControlTokenMatch,
  DecodeOptions,
  EncodeOptions,
  EncoderKind,
  SpecialTokens,
  TextRules,
  Tokenizer,
  TokenPiece,
} from './tokenizer.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';
import { decodeBytewise } from './utf8-decoder.ts';

const EMPTY = new Uint8Array(0);
const encoder = new TextEncoder();

const showByte = (byte: number): string => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`;

export interface TokenizerParts {
  readonly conventions: TokenizerConventions;
  /** Texts by id, as the vocabulary writes them; holes where an id has no token. */
  readonly pieces: readonly (string | undefined)[];
  /** Tokens that are shown as they are written. */
  readonly added: readonly AddedTokenJson[];
  readonly control: readonly AddedTokenJson[];
  readonly decoder: PieceDecoder;
  /** Whether text behind a control token starts anew, with a sentencepiece space in front. */
  readonly prefixAfterControl: boolean;
}

export abstract class BaseTokenizer implements Tokenizer {
  abstract readonly encoder: EncoderKind;
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
  readonly textRules: TextRules;

  readonly #suffixTokenIds: readonly number[];
  readonly #prefixAfterControl: boolean;
  readonly #splitter: ControlSplitter;
  readonly #decoder: PieceDecoder;
  readonly #pieces: readonly (string | undefined)[];
  readonly #ids = new Map<string, number>();
  readonly #addedContents: ReadonlyMap<number, string>;
  readonly #bytes: (Uint8Array | undefined)[] = [];
  readonly #startRuns = new RunCache();
  readonly #continuedRuns = new RunCache();

  constructor({ conventions, pieces, added, control, decoder, prefixAfterControl }: TokenizerParts) {
    this.controlTokenIds = new Set(control.map((token) => token.id));
    this.#pieces = pieces;
    this.#addedContents = new Map([...added, ...control].map((token) => [token.id, token.content]));
    pieces.forEach((piece, id) => {
      if (piece !== undefined && !this.#ids.has(piece)) this.#ids.set(piece, id);
    });
    this.vocabSize = pieces.length;
    this.#decoder = decoder;
    this.textRules = decoder.textRules;
    this.#prefixAfterControl = prefixAfterControl;
    this.#splitter = new ControlSplitter(control);
    this.#suffixTokenIds = conventions.suffixTokenIds;
    this.bosTokenId = conventions.bosTokenId;
    this.eosTokenId = conventions.eosTokenId;
    this.padTokenId = conventions.padTokenId;
    this.unkTokenId = conventions.unkTokenId;
    this.endOfGenerationTokenIds = conventions.endOfGenerationTokenIds;
    this.prefixTokenIds = conventions.prefixTokenIds;
    this.chatTemplate = conventions.chatTemplate;
    const piece = (id: number | null): string | null => (id === null ? null : (pieces[id] ?? null));
    this.specialTokens = {
      bos_token: piece(this.bosTokenId),
      eos_token: piece(this.eosTokenId),
      unk_token: piece(this.unkTokenId),
      pad_token: piece(this.padTokenId),
    };
  }

  /**
   * Appends the ids of a run of ordinary text, which holds no control token.
   * @param prefixed the run starts a text: sentencepiece's space is put in front
   */
  protected abstract encodeRun(text: string, prefixed: boolean, ids: number[]): void;

  #encodeRun(text: string, prefixed: boolean, ids: number[]): void {
    const runs = prefixed ? this.#startRuns : this.#continuedRuns;
    runs.encode(text, ids, prefixed ? this.#encodePrefixed : this.#encodeContinued);
  }

  readonly #encodePrefixed = (text: string, ids: number[]): void => this.encodeRun(text, true, ids);
  readonly #encodeContinued = (text: string, ids: number[]): void => this.encodeRun(text, false, ids);

  #isPrefixed(after: 'start' | 'text' | 'control'): boolean {
    return after === 'start' || (after === 'control' && this.#prefixAfterControl);
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
    return new Uint32Array(ids);
  }

  decode(ids: ArrayLike<number>, options: DecodeOptions = {}): string {
    const stream = new DetokenizerStream(this, options);
    return stream.push(ids) + stream.flush();
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
      const { text, valid } = decodeBytewise(this.idToBytes(id), showByte);
      return { id, text, partial: !valid, control: this.controlTokenIds.has(id) };
    });
  }
}
