/** A `tokenizer.model` file: the protobuf `sentencepiece.ModelProto`, read field by field. */
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire';
import { TokenizerError } from '../errors.ts';
import { Charsmap } from './charsmap.ts';
import { byteOfPiece, type NormalizerSpec, PieceType, type SentencePieceModel } from './model.ts';

/** `TrainerSpec.ModelType`. */
const ALGORITHMS = ['', 'unigram', 'bpe', 'word', 'char'] as const;

interface TrainerSpec {
  readonly modelType: number;
  readonly treatWhitespaceAsSuffix: boolean;
  readonly byteFallback: boolean;
  readonly bosPiece: string;
  readonly eosPiece: string;
  readonly padPiece: string;
}

function corrupt(message: string): never {
  throw new TokenizerError('TOKENIZER_CORRUPT', message);
}

function unsupported(message: string): never {
  throw new TokenizerError('TOKENIZER_UNSUPPORTED', message);
}

/** A field's number and the reader in front of its value. Not reading the value leaves it out. */
type OnField = (field: number, reader: BinaryReader) => void;

function readMessage(bytes: Uint8Array, expected: ReadonlyMap<number, WireType>, onField: OnField): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    const wanted = expected.get(field);
    if (wanted === undefined) reader.skip(wireType, field);
    else if (wanted === wireType) onField(field, reader);
    else corrupt(`field ${field} has wire type ${wireType}; expected ${wanted}`);
  }
}

const { Varint, Bit32, LengthDelimited } = WireType;
const MODEL_FIELDS = new Map([1, 2, 3, 5].map((field) => [field, LengthDelimited]));
const PIECE_FIELDS = new Map([
  [1, LengthDelimited],
  [2, Bit32],
  [3, Varint],
]);
const TRAINER_FIELDS = new Map([
  ...[3, 24, 35].map((field) => [field, Varint] as const),
  ...[46, 47, 48].map((field) => [field, LengthDelimited] as const),
]);
const NORMALIZER_FIELDS = new Map([
  [2, LengthDelimited],
  [3, Varint],
  [4, Varint],
  [5, Varint],
]);

function readTrainerSpec(bytes: Uint8Array): TrainerSpec {
  // The defaults of sentencepiece_model.proto.
  const spec = {
    modelType: 1,
    treatWhitespaceAsSuffix: false,
    byteFallback: false,
    bosPiece: '<s>',
    eosPiece: '</s>',
    padPiece: '<pad>',
  };
  readMessage(bytes, TRAINER_FIELDS, (field, reader) => {
    if (field === 3) spec.modelType = reader.int32();
    else if (field === 24) spec.treatWhitespaceAsSuffix = reader.bool();
    else if (field === 35) spec.byteFallback = reader.bool();
    else if (field === 46) spec.bosPiece = reader.string();
    else if (field === 47) spec.eosPiece = reader.string();
    else spec.padPiece = reader.string();
  });
  return spec;
}

function readNormalizerSpec(bytes: Uint8Array): NormalizerSpec {
  let charsmap = new Uint8Array(0);
  const spec = { addDummyPrefix: true, removeExtraWhitespaces: true, escapeWhitespaces: true };
  readMessage(bytes, NORMALIZER_FIELDS, (field, reader) => {
    if (field === 2) charsmap = reader.bytes() as Uint8Array<ArrayBuffer>;
    else if (field === 3) spec.addDummyPrefix = reader.bool();
    else if (field === 4) spec.removeExtraWhitespaces = reader.bool();
    else spec.escapeWhitespaces = reader.bool();
  });
  return { ...spec, charsmap: charsmap.length === 0 ? null : new Charsmap(charsmap) };
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

interface Piece {
  readonly text: string;
  readonly score: number;
  readonly type: number;
}

function readPiece(bytes: Uint8Array, id: number): Piece {
  let [text, score, type] = ['', 0, PieceType.normal as number];
  readMessage(bytes, PIECE_FIELDS, (field, reader) => {
    if (field === 2) score = reader.float();
    else if (field === 3) type = reader.int32();
    else {
      try {
        text = utf8.decode(reader.bytes());
      } catch (error) {
        if (error instanceof RangeError) throw error;
        corrupt(`piece ${id} is not UTF-8`);
      }
    }
  });
  if (text.length > 1 && text.includes('\0')) corrupt(`piece ${id} holds a NUL character`);
  if (text === '') corrupt(`piece ${id} is empty`);
  if (!Number.isFinite(score)) corrupt(`piece ${id} ${JSON.stringify(text)} has the score ${score}`);
  if (!(type >= PieceType.normal && type <= PieceType.byte)) {
    corrupt(`piece ${id} ${JSON.stringify(text)} has type ${type}; expected 1 to 6`);
  }
  return { text, score, type };
}

/** What sentencepiece refuses, too. Gives back the id of UNK. */
function checkPieces(pieces: readonly Piece[], byteFallback: boolean): number | null {
  const seen = new Map<string, number>();
  const bytes = new Set<number>();
  let unkId = -1;
  pieces.forEach(({ text, type }, id) => {
    // A reserved piece and an ordinary one may have the same text.
    const reserved = type === PieceType.control || type === PieceType.unknown || type === PieceType.byte;
    const key = (reserved ? 'r' : 'o') + text;
    if (seen.has(key)) corrupt(`pieces ${seen.get(key)} and ${id} are both ${JSON.stringify(text)}`);
    seen.set(key, id);
    if (type === PieceType.unknown) {
      if (unkId >= 0) corrupt(`pieces ${unkId} and ${id} are both the unknown piece`);
      unkId = id;
    }
    if (type !== PieceType.byte) return;
    if (!byteFallback) corrupt(`piece ${id} ${text} is a byte, but byte_fallback is off`);
    bytes.add(byteOfPiece(text) ?? corrupt(`byte piece ${id} reads ${JSON.stringify(text)}; expected such as <0x0A>`));
  });
  if (unkId < 0 && !byteFallback)
    corrupt(`none of ${pieces.length} pieces is the unknown piece, and byte_fallback is off`);
  if (byteFallback && bytes.size !== 256) corrupt(`byte_fallback needs 256 byte pieces; found ${bytes.size}`);
  return unkId < 0 ? null : unkId;
}

function decode(bytes: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  let trainer = readTrainerSpec(new Uint8Array(0));
  let normalizer = readNormalizerSpec(new Uint8Array(0));
  let denormalizer = normalizer;
  readMessage(bytes, MODEL_FIELDS, (field, reader) => {
    const value = reader.bytes();
    if (field === 1) pieces.push(readPiece(value, pieces.length));
    else if (field === 2) trainer = readTrainerSpec(value);
    else if (field === 3) normalizer = readNormalizerSpec(value);
    else denormalizer = readNormalizerSpec(value);
  });
  if (pieces.length === 0) corrupt('it has no pieces');
  const algorithm = ALGORITHMS[trainer.modelType];
  if (algorithm !== 'unigram' && algorithm !== 'bpe') {
    unsupported(`model type ${algorithm || trainer.modelType} is not supported; supported are unigram and bpe`);
  }
  if (trainer.treatWhitespaceAsSuffix) unsupported('treat_whitespace_as_suffix is not supported');
  if (denormalizer.charsmap !== null) unsupported('denormalization rules are not supported');
  const unkId = checkPieces(pieces, trainer.byteFallback);
  const control = (piece: string): number | null => {
    const id = pieces.findIndex(({ text, type }) => type === PieceType.control && text === piece);
    return id < 0 ? null : id;
  };
  return {
    algorithm: algorithm as 'unigram' | 'bpe',
    pieces: pieces.map(({ text }) => text),
    scores: Float32Array.from(pieces, ({ score }) => score),
    // Some converters write the NUL character as a piece; sentencepiece never uses it.
    types: Uint8Array.from(pieces, ({ text, type }) => (text === '\0' ? PieceType.control : type)),
    byteFallback: trainer.byteFallback,
    unkId,
    bosId: control(trainer.bosPiece),
    eosId: control(trainer.eosPiece),
    padId: control(trainer.padPiece),
    normalizer,
  };
}

/**
 * @param origin the file's name, for errors
 * @throws TokenizerError where the file is no sentencepiece model, is broken, or is of a kind that is not built
 */
export function readSentencePieceModel(bytes: Uint8Array, origin: string): SentencePieceModel {
  try {
    return decode(bytes);
  } catch (error) {
    if (error instanceof TokenizerError) {
      throw new TokenizerError(error.code, `${origin}: ${error.message}`, { cause: error });
    }
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      `${origin} is not a sentencepiece model (${error instanceof Error ? error.message : String(error)}); it is cut short, or of another kind`,
      { cause: error },
    );
  }
}
