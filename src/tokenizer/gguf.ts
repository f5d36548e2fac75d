/** GGUF metadata to a tokenizer definition. Token types are llama.cpp's: 1 normal … 6 byte. */
import type { GgufTokenizerMetadata } from '../engine/engine.ts';
import type { TokenizerDefinition } from './definition.ts';
import { TokenizerError } from './errors.ts';
import { preTokenizerSpec } from './pre-tokenizers.ts';
import { sentencePieceMerges } from './sentencepiece-merges.ts';
import { type AddedTokenJson, BYTE_LEVEL, type ComponentJson, isolate, type TokenizerJson } from './tokenizer-json.ts';

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const BYTE = 6;

const sequence = (field: string, members: readonly ComponentJson[]): ComponentJson => ({
  type: 'Sequence',
  [field]: members,
});

function addedTokens(metadata: GgufTokenizerMetadata): AddedTokenJson[] {
  const added: AddedTokenJson[] = [];
  metadata.tokens.forEach((content, id) => {
    const type = metadata.tokenTypes?.[id] ?? NORMAL;
    if (type !== CONTROL && type !== USER_DEFINED && type !== UNKNOWN) return;
    const special = type !== USER_DEFINED;
    added.push({ id, content, special, single_word: false, lstrip: false, rstrip: false, normalized: false });
  });
  return added;
}

/** Ids by token text of the given types; where a text stands twice the first one counts. */
function vocabulary(metadata: GgufTokenizerMetadata, types: ReadonlySet<number>): Map<string, number> {
  const vocab = new Map<string, number>();
  metadata.tokens.forEach((token, id) => {
    if (types.has(metadata.tokenTypes?.[id] ?? NORMAL) && !vocab.has(token)) vocab.set(token, id);
  });
  return vocab;
}

function byteLevelJson(metadata: GgufTokenizerMetadata): TokenizerJson {
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
      vocab: Object.fromEntries(vocabulary(metadata, new Set([NORMAL]))),
      merges: metadata.merges,
      ignore_merges: pre.ignoreMerges,
    },
  };
}

function sentencePieceJson(metadata: GgufTokenizerMetadata): TokenizerJson {
  if (metadata.scores === null) {
    throw new TokenizerError(
      'TOKENIZER_CORRUPT',
      'a GGUF tokenizer of model `llama` needs `tokenizer.ggml.scores`; the file has none',
    );
  }
  const prefix = metadata.addSpacePrefix ?? true;
  const replaceSpace: ComponentJson = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const unknown = metadata.unknownTokenId === null ? undefined : metadata.tokens[metadata.unknownTokenId];
  return {
    added_tokens: addedTokens(metadata),
    normalizer: sequence('normalizers', prefix ? [{ type: 'Prepend', prepend: '▁' }, replaceSpace] : [replaceSpace]),
    pre_tokenizer: null,
    post_processor: null,
    decoder: sequence('decoders', [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
    ]),
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(vocabulary(metadata, new Set([NORMAL, BYTE]))),
      merges: sentencePieceMerges(vocabulary(metadata, new Set([NORMAL])), metadata.scores),
      unk_token: unknown ?? null,
      byte_fallback: true,
      fuse_unk: true,
    },
  };
}

function checkId(name: string, id: number | null, size: number): void {
  if (id !== null && !(id >= 0 && id < size)) {
    throw new TokenizerError('TOKENIZER_CORRUPT', `GGUF ${name} is ${id}; the vocabulary has ${size} tokens`);
  }
}

/**
 * Converts the `tokenizer.ggml.*` keys of a GGUF file: `gpt2` (byte-level BPE) and `llama` (sentencepiece BPE).
 *
 * @throws TokenizerError where the model, its pre-tokenizer or a needed key is missing or not supported
 */
export function ggufTokenizerDefinition(metadata: GgufTokenizerMetadata): TokenizerDefinition {
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
  let json: TokenizerJson;
  let addBosDefault: boolean;
  if (metadata.model === 'gpt2') {
    json = byteLevelJson(metadata);
    addBosDefault = preTokenizerSpec(metadata.pre).addBos;
  } else if (metadata.model === 'llama') {
    json = sentencePieceJson(metadata);
    addBosDefault = true;
  } else {
    throw new TokenizerError(
      'TOKENIZER_UNSUPPORTED',
      `GGUF tokenizer model \`${metadata.model}\` is not supported; supported are gpt2 (byte-level BPE) and llama (sentencepiece BPE)`,
    );
  }
  const bos = metadata.bosTokenId;
  const eos = metadata.eosTokenId;
  return {
    json,
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
