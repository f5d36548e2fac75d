/** The tokenizer over a sentencepiece model and the tokens that its folder adds. */
import { BaseTokenizer } from './base-tokenizer.ts';
import { sentencePieceBytes, spacedBytes } from './byte-decoder.ts';
import { ControlSplitter } from './control-splitter.ts';
import { controlTokens, isStructural, plainToken } from './control-tokens.ts';
import type { SentencePieceDefinition } from './definition.ts';
import type { NativeEncoders } from './native/encoders.ts';
import { nativeSentencePiece } from './native/sentencepiece.ts';
import { SentencePieceEncoder } from './sentencepiece/encoder.ts';
import { PieceType, type SentencePieceModel, withoutPieces } from './sentencepiece/model.ts';
import type { EncoderKind, TextRules } from './tokenizer.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

/** The pieces that are no text, as if the folder had named them; those that it does name come from it. */
function controlPieces(definition: SentencePieceDefinition): AddedTokenJson[] {
  const { model, addedTokens, turnTokenIds } = definition;
  const named = new Set(addedTokens.map((token) => token.id));
  const turns = new Set(turnTokenIds);
  return model.pieces.flatMap((piece, id) => {
    const type = model.types[id];
    const isControl = type === PieceType.control || type === PieceType.unknown || turns.has(id) || isStructural(piece);
    return isControl && !named.has(id) ? [plainToken(id, piece, true)] : [];
  });
}

function textRules({ normalizer }: SentencePieceModel): TextRules {
  const strips = normalizer.addDummyPrefix ? 'piece' : 'keep';
  return { leadingSpaces: normalizer.removeExtraWhitespaces ? 'pieces' : strips, invalidBytes: 'byte' };
}

export class SentencePieceTokenizer extends BaseTokenizer {
  readonly encoder: EncoderKind;
  readonly #encoder: Pick<SentencePieceEncoder, 'encode'>;
  /** Added tokens that are text: found wherever they stand, before the model sees the rest. */
  readonly #ordinary: ControlSplitter;
  readonly #prefixAfterControl: boolean;

  /** @param encoders Do the model's work where they can. */
  constructor(definition: SentencePieceDefinition, encoders: NativeEncoders | null = null) {
    const { model, addedTokens, prefixAfterControl } = definition;
    const pieces: (string | undefined)[] = [...model.pieces];
    for (const token of addedTokens) pieces[token.id] = token.content;
    const added = [...addedTokens, ...controlPieces(definition)];
    const control = controlTokens(
      definition,
      added,
      model.pieces.map((piece, id) => [piece, id] as const),
    );
    super({
      conventions: definition,
      pieces,
      added: addedTokens,
      control,
      decoder: { bytes: model.byteFallback ? sentencePieceBytes : spacedBytes, textRules: textRules(model) },
      prefixAfterControl,
    });
    const ordinary = addedTokens.filter((token) => !this.controlTokenIds.has(token.id));
    const named = ordinary.map((token) => token.id);
    const outside = new Set([...this.controlTokenIds, ...named, ...definition.unreachableTokenIds]);
    const ordinaryModel = withoutPieces(model, outside);
    const native = encoders === null ? null : nativeSentencePiece(encoders, ordinaryModel);
    this.encoder = native === null ? 'javascript' : 'native';
    this.#encoder = native ?? new SentencePieceEncoder(ordinaryModel);
    this.#ordinary = new ControlSplitter(ordinary);
    this.#prefixAfterControl = prefixAfterControl;
  }

  protected override encodeRun(text: string, prefixed: boolean, ids: number[]): void {
    this.#ordinary.split(text).forEach((section, index) => {
      if ('id' in section) ids.push(section.id);
      else this.#encoder.encode(section.text, !(index === 0 ? prefixed : this.#prefixAfterControl), ids);
    });
  }
}
