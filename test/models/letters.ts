/** A tokenizer of 55 pieces, one for each letter, in the three forms that model files have: for models whose vocabulary is 64. */

const CONTROL = ['<unk>', '<s>', '</s>'];
/** As sentencepiece writes them: ▁ is the space. Ids 0 to 54; ChatGLM's class puts nine more behind. */
const PIECES = [...CONTROL, '▁', ...'abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789.,?!:'];

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL_TYPE = 3;
const typeOf = (id: number): number => (id === 0 ? UNKNOWN : id < CONTROL.length ? CONTROL_TYPE : NORMAL);
/** The likeliest first, as trained models have them. */
const scoreOf = (id: number): number => (id < CONTROL.length ? 0 : -id);

/** `tokenizer.model`: https://github.com/google/sentencepiece/blob/v0.2.1/src/sentencepiece_model.proto, with its defaults. */
export function lettersModel(): Buffer {
  const pieces = PIECES.map((piece, id) => {
    const text = Buffer.from(piece);
    const score = Buffer.alloc(4);
    score.writeFloatLE(scoreOf(id));
    // SentencePiece: piece = 1, score = 2, type = 3; ModelProto: pieces = 1.
    const message = [
      Buffer.from([0x0a, text.length]),
      text,
      Buffer.from([0x15]),
      score,
      Buffer.from([0x18, typeOf(id)]),
    ];
    const bytes = Buffer.concat(message);
    return Buffer.concat([Buffer.from([0x0a, bytes.length]), bytes]);
  });
  return Buffer.concat(pieces);
}

/** `tokenizer.json`, as transformers writes sentencepiece's BPE. */
export function lettersJson(): object {
  const added = CONTROL.map((content, id) => {
    const strips = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    return { id, content, ...strips, special: true };
  });
  return {
    version: '1.0',
    added_tokens: added,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
    },
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: 1, stop: 0 },
      ],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(PIECES.map((piece, id) => [piece, id])),
      merges: [],
    },
  };
}

/** The `tokenizer.ggml.*` keys of llama.cpp. @param vocabulary Rows of the embedding; those behind the pieces are unused. */
export function lettersGguf(vocabulary: number): Readonly<Record<string, unknown>> {
  const UNUSED = 5;
  const padding = Array.from({ length: vocabulary - PIECES.length }, (_, index) => `[PAD${index}]`);
  const tokens = [...PIECES, ...padding];
  return {
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.scores': Float32Array.from(tokens, (_, id) => scoreOf(id)),
    'tokenizer.ggml.token_type': Int32Array.from(tokens, (_, id) => (id < PIECES.length ? typeOf(id) : UNUSED)),
    'tokenizer.ggml.bos_token_id': 1,
    'tokenizer.ggml.eos_token_id': 2,
    'tokenizer.ggml.unknown_token_id': 0,
  };
}
