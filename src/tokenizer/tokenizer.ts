/**
 * Text to token ids and back. This file knows nothing of roles, templates or loss weights.
 *
 * Message text must never become a control token: `encode` parses control tokens only where the caller asks for it.
 */

import type { InvalidBytes } from './utf8-decoder.ts';

export interface EncodeOptions {
  /** True: the text of a control token becomes that token. False (the default): it is ordinary text. */
  readonly parseSpecial?: boolean;
  /** Adds what the tokenizer's own files put around a text, such as BOS. Default false. */
  readonly addSpecialTokens?: boolean;
  /**
   * What stands before the text: nothing (`start`, the default), ordinary text, or a control token. Decides whether a
   * sentencepiece tokenizer puts its space in front, so that a text encoded in parts gets the ids of the whole.
   */
  readonly after?: 'start' | 'text' | 'control';
  /**
   * With `parseSpecial`: a character across which no control token is found (nor, for a control token of one character,
   * behind it). It is removed before encoding. This is how message text stays text inside a rendered template.
   */
  readonly literalMark?: string;
}

export interface DecodeOptions {
  /** Leaves control tokens out. Default false. */
  readonly skipSpecialTokens?: boolean;
  /** The ids continue earlier text: a sentencepiece space in front is kept. Default false. */
  readonly continuation?: boolean;
}

/** One token as shown to people. */
export interface TokenPiece {
  readonly id: number;
  /** What the token adds to the text; bytes that are no valid UTF-8 on their own read `<0xE4>`. */
  readonly text: string;
  /** True where `text` holds such bytes: the character is completed by the neighbours. */
  readonly partial: boolean;
  readonly control: boolean;
}

/** The tokens that templates refer to by name. */
export interface SpecialTokens {
  readonly bos_token: string | null;
  readonly eos_token: string | null;
  readonly unk_token: string | null;
  readonly pad_token: string | null;
}

/** A control token in a text; `start` and `end` in UTF-16 units. */
export interface ControlTokenMatch {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/** How the bytes of tokens, joined, become text. */
export interface TextRules {
  /**
   * Which space in front of a text is the tokenizer's (sentencepiece) and is left out. `text`: the first one. `piece`:
   * the first piece's. `pieces`: that of every piece until there is text, since the model keeps no spaces in front.
   */
  readonly leadingSpaces: 'keep' | 'text' | 'piece' | 'pieces';
  readonly invalidBytes: InvalidBytes;
}

/** What turns ordinary text into ids: this process's JavaScript, or the engine's addon. The ids are the same. */
export type EncoderKind = 'javascript' | 'native';

export interface Tokenizer {
  readonly encoder: EncoderKind;
  /** Highest id + 1. */
  readonly vocabSize: number;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | null;
  readonly padTokenId: number | null;
  readonly unkTokenId: number | null;
  /** Every id that ends a generated answer by the files' own word: EOS, end of turn, `generation_config.json`. */
  readonly endOfGenerationTokenIds: readonly number[];
  /**
   * Ids that text cannot produce while `parseSpecial` is false; UNK alone may still stand for a character that neither
   * vocabulary nor byte tokens can express.
   */
  readonly controlTokenIds: ReadonlySet<number>;
  /** Ids that `addSpecialTokens` puts in front of a text. */
  readonly prefixTokenIds: readonly number[];
  /** The model's own Jinja chat template. */
  readonly chatTemplate: string | null;
  readonly specialTokens: SpecialTokens;

  encode(text: string, options?: EncodeOptions): Uint32Array;
  /** The control tokens that `encode` with `parseSpecial` would find. */
  findControlTokens(text: string, literalMark?: string): ControlTokenMatch[];
  /** Ids without a token (a padded vocabulary) add nothing. Invalid UTF-8 reads U+FFFD. */
  decode(ids: ArrayLike<number>, options?: DecodeOptions): string;
  /** The token as the vocabulary writes it (`Ġthe`, `<0x0A>`); null where the id has none. */
  idToPiece(id: number): string | null;
  /** The id of a token as the vocabulary writes it. */
  pieceToId(piece: string): number | null;
  /** The bytes a token adds to the text; empty where the id has no token. */
  idToBytes(id: number): Uint8Array;
  /** How bytes become text. */
  readonly textRules: TextRules;
  pieces(ids: ArrayLike<number>): TokenPiece[];
}
