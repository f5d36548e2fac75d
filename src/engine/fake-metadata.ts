/** What the fake engine's models say of themselves: a two-layer Llama with a tokenizer of all bytes and ChatML. */
import type { GgufTokenizerMetadata, ModelMetadata } from './engine.ts';

const CONTROL = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'];

const CHAT_TEMPLATE = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}`;

/** GPT-2's printable stand-ins for the 256 bytes, in byte order. */
function byteAlphabet(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}

/** Three control tokens (ids 0–2), then one token for each byte (id: byte + 3); no merges. */
function fakeTokenizer(): GgufTokenizerMetadata {
  const tokens = [...CONTROL, ...byteAlphabet()];
  return {
    model: 'gpt2',
    pre: 'smollm',
    tokens,
    scores: null,
    tokenTypes: Int32Array.from(tokens, (_, id) => (id < CONTROL.length ? 3 : 1)),
    merges: [],
    bosTokenId: 1,
    eosTokenId: 2,
    eotTokenId: null,
    unknownTokenId: 0,
    paddingTokenId: 2,
    addBosToken: false,
    addEosToken: false,
    addSpacePrefix: false,
    chatTemplate: CHAT_TEMPLATE,
  };
}

/** The fake model at a path; fields that are given replace the default ones. */
export function fakeMetadata(path: string, given: Partial<ModelMetadata>): ModelMetadata {
  return {
    path,
    format: 'gguf',
    architecture: 'llama',
    name: 'fake',
    vocabSize: CONTROL.length + 256,
    hiddenSize: 8,
    intermediateSize: 16,
    numHiddenLayers: 2,
    numAttentionHeads: 2,
    numKeyValueHeads: 1,
    headDim: 4,
    maxPositionEmbeddings: 512,
    tieWordEmbeddings: true,
    ropeTheta: 10_000,
    rmsNormEps: 1e-5,
    parameterCount: 3_264,
    storedBytes: 13_056,
    storageType: 'f32',
    contentHash: 'f'.repeat(64),
    eosTokenIds: [2],
    linearModules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    tokenizer: { kind: 'gguf', metadata: fakeTokenizer() },
    ...given,
  };
}
