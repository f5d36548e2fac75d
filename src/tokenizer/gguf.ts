/** The tokenizer of a GGUF file. Token types are llama.cpp's, which are sentencepiece's: 1 normal … 6 byte. */
import type { GgufTokenizerMetadata } from '../engine/engine.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { plainToken } from './control-tokens.ts';
import type { SentencePieceDefinition, TokenizerConventions } from './definition.ts';
import { TokenizerError } from './errors.ts';
import type { NativeEncoders } from './native/encoders.ts';
import { preTokenizerSpec } from './pre-tokenizers.ts';
import { byteOfPiece, PieceType, type SentencePieceModel } from './sentencepiece/model.ts';
import { SentencePieceTokenizer } from './sentencepiece-tokenizer.ts';
import { type AddedTokenJson, BYTE_LEVEL, type ComponentJson, isolate, type TokenizerJson } from './tokenizer-json.ts';

const sequence = (field: string, members: readonly ComponentJson[]): ComponentJson => ({
  type: 'Sequence',
  [field]: members,
});

const typeOf = (metadata: GgufTokenizerMetadata, id: number): number => metadata.tokenTypes?.[id] ?? PieceType.normal;

function addedTokens(metadata: GgufTokenizerMetadata): AddedTokenJson[] {
  const added: AddedTokenJson[] = [];
  metadata.tokens.forEach((content, id) => {
    const type = typeOf(metadata, id);
    if (type !== PieceType.control && type !== PieceType.userDefined && type !== PieceType.unknown) return;
    added.push(plainToken(id, content, type !== PieceType.userDefined));
  });
  return added;
}

/** Ids of ordinary tokens by text; where a text stands twice the first one counts. */
function vocabulary(metadata: GgufTokenizerMetadata): Map<string, number> {
  const vocab = new Map<string, number>();
  metadata.tokens.forEach((token, id) => {
    if (typeOf(metadata, id) === PieceType.normal && !vocab.has(token)) vocab.set(token, id);
  });
  return vocab;
}

/** The `gpt2` kind as a `tokenizer.json`. */
export function byteLevelJson(metadata: GgufTokenizerMetadata): TokenizerJson {
  if (metadata.merges === null) {
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      'a GGUF tokenizer of model `gpt2` needs `tokenizer.ggml.merges`; the file has none',
    );
  }
  const pre = preTokenizerSpec(metadata.pre);
  return {
    added_tokens: addedTokens(metadata),
    normalizer: pre.nfc ? { type: 'NFC' } : null,
    pre_tokenizer: sequence('pretokenizers', [...pre.patterns.map(isolate), BYTE_LEVEL]),
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(vocabulary(metadata)),
      merges: metadata.merges,
      ignore_merges: pre.ignoreMerges,
    },
  };
}

/**
 * The pieces of a file of the model `llama`, as sentencepiece has them. The file keeps no other rules: texts are not normalized but for spaces.
 */
function sentencePieceModel(metadata: GgufTokenizerMetadata): SentencePieceModel {
  const { tokens, scores } = metadata;
  if (scores === null) {
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      'a GGUF tokenizer of model `llama` needs `tokenizer.ggml.scores`; the file has none',
    );
  }
  const types = Uint8Array.from(tokens, (_, id) => typeOf(metadata, id));
  const bytes = new Set(tokens.filter((_, id) => types[id] === PieceType.byte).map(byteOfPiece));
  if (bytes.has(null) || (bytes.size !== 0 && bytes.size !== 256)) {
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      `a GGUF tokenizer of model \`llama\` needs all 256 byte tokens, <0x00> to <0xFF>, or none; found ${bytes.size} of them`,
    );
  }
  return {
    algorithm: 'bpe',
    pieces: tokens,
    scores,
    types,
    byteFallback: bytes.size > 0,
    unkId: metadata.unknownTokenId,
    bosId: metadata.bosTokenId,
    eosId: metadata.eosTokenId,
    padId: metadata.paddingTokenId,
    normalizer: {
      charsmap: null,
      addDummyPrefix: metadata.addSpacePrefix ?? true,
      removeExtraWhitespaces: false,
      escapeWhitespaces: true,
    },
  };
}

/** Tokens that text never becomes: padding of the vocabulary, texts that stand twice or are empty. */
function unreachableTokens({ pieces, types }: SentencePieceModel): number[] {
  const first = new Map<string, number>();
  pieces.forEach((piece, id) => {
    if (types[id] === PieceType.normal && !first.has(piece)) first.set(piece, id);
  });
  return [...pieces.keys()].filter((id) => {
    const piece = pieces[id] ?? '';
    const isTwice = types[id] === PieceType.normal && first.get(piece) !== id;
    return isTwice || piece === '' || types[id] === PieceType.unused;
  });
}

function checkId(name: string, id: number | null, size: number): void {
  if (id !== null && !(id >= 0 && id < size)) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `GGUF ${name} is ${id}; the vocabulary has ${size} tokens`);
  }
}

function checkMetadata(metadata: GgufTokenizerMetadata): void {
  const size = metadata.tokens.length;
  if (size === 0)
    throw new TokenizerError('TOKENIZER_CORRUPT', 'the GGUF file has no tokens (`tokenizer.ggml.tokens`)');
  const ids = [
    metadata.bosTokenId,
    metadata.eosTokenId,
    metadata.eotTokenId,
    metadata.unknownTokenId,
    metadata.paddingTokenId,
  ];
  for (const [index, name] of ['bos', 'eos', 'eot', 'unknown', 'padding'].entries()) {
    checkId(`${name}_token_id`, ids[index] ?? null, size);
  }
  for (const [name, list] of [
    ['token_type', metadata.tokenTypes],
    ['scores', metadata.scores],
  ] as const) {
    if (list !== null && list.length !== size) {
      throw new TokenizerError(
        'TOKENIZER_CORRUPT',
        `GGUF \`tokenizer.ggml.${name}\` has ${list.length} entries for ${size} tokens`,
      );
    }
  }
}

function conventionsOf(metadata: GgufTokenizerMetadata, addBosDefault: boolean): TokenizerConventions {
  const bos = metadata.bosTokenId;
  const eos = metadata.eosTokenId;
  return {
    bosTokenId: bos,
    eosTokenId: eos,
    padTokenId: metadata.paddingTokenId,
    unkTokenId: metadata.unknownTokenId,
    endOfGenerationTokenIds: [...new Set([eos, metadata.eotTokenId].filter((id) => id !== null))],
    prefixTokenIds: (metadata.addBosToken ?? addBosDefault) && bos !== null ? [bos] : [],
    suffixTokenIds: metadata.addEosToken === true && eos !== null ? [eos] : [],
    chatTemplate: metadata.chatTemplate,
  };
}

/**
 * The tokenizer of the `tokenizer.ggml.*` keys of a GGUF file: `gpt2` (byte-level BPE) or `llama` (sentencepiece BPE).
 *
 * @param encoders The addon's; null: JavaScript's.
 * @throws TokenizerError where the model, its pre-tokenizer or a needed key is missing or not supported
 */
export function ggufTokenizer(
  metadata: GgufTokenizerMetadata,
  encoders: NativeEncoders | null = null,
): BpeTokenizer | SentencePieceTokenizer {
  checkMetadata(metadata);
  if (metadata.model === 'gpt2') {
    const conventions = conventionsOf(metadata, preTokenizerSpec(metadata.pre).addBos);
    return new BpeTokenizer({ ...conventions, json: byteLevelJson(metadata) }, encoders);
  }
  if (metadata.model === 'llama') {
    const model = sentencePieceModel(metadata);
    const definition: SentencePieceDefinition = {
      ...conventionsOf(metadata, true),
      model,
      addedTokens: [],
      turnTokenIds: [],
      unreachableTokenIds: unreachableTokens(model),
      prefixAfterControl: true,
    };
    return new SentencePieceTokenizer(definition, encoders);
  }
  throw new TokenizerError(
    'TOKENIZER_UNSUPPORTED',
    `GGUF tokenizer model \`${metadata.model}\` is not supported; supported are gpt2 (byte-level BPE) and llama (sentencepiece BPE)`,
  );
}
