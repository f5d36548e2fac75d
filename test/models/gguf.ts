/** A golden model of a Hugging Face folder as the GGUF file that llama.cpp's `convert_hf_to_gguf.py` makes of its family, all in f32. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { lettersGguf } from './letters.ts';
import { readTensors, rowsOf, type Tensor } from './tensors.ts';

const MAGIC = 0x46554747;
const VERSION = 3;
const ALIGNMENT = 32;
/** Value types of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. */
const [UINT32, INT32, FLOAT32, STRING, ARRAY] = [4, 5, 6, 8, 9];

const u32 = (value: number): Buffer => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: number): Buffer => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

/** A number that must be written as a float though it is whole. */
class Float {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

function value(given: unknown): Buffer {
  if (typeof given === 'string') return Buffer.concat([u32(STRING), text(given)]);
  if (given instanceof Float) return Buffer.concat([u32(FLOAT32), Buffer.from(Float32Array.of(given.value).buffer)]);
  if (typeof given === 'number') return Buffer.concat([u32(UINT32), u32(given)]);
  const array = (type: number, length: number, items: Buffer[]) =>
    Buffer.concat([u32(ARRAY), u32(type), u64(length), ...items]);
  if (given instanceof Float32Array) return array(FLOAT32, given.length, [Buffer.from(given.buffer)]);
  if (given instanceof Int32Array) return array(INT32, given.length, [Buffer.from(given.buffer)]);
  if (Array.isArray(given)) return array(STRING, given.length, given.map(String).map(text));
  throw new Error(`${typeof given} has no type in GGUF`);
}

function file(metadata: Readonly<Record<string, unknown>>, tensors: ReadonlyMap<string, Tensor>): Buffer {
  const keys = Object.entries(metadata).flatMap(([key, given]) => [text(key), value(given)]);
  const padded = (length: number): number => Math.ceil(length / ALIGNMENT) * ALIGNMENT;
  const infos: Buffer[] = [];
  const data: Buffer[] = [];
  let offset = 0;
  for (const [name, { shape, values }] of tensors) {
    // The fastest dimension comes first; type 0 is f32.
    const dimensions = [...shape].reverse().map(u64);
    infos.push(text(name), u32(shape.length), ...dimensions, u32(0), u64(offset));
    const length = padded(values.byteLength);
    data.push(Buffer.concat([Buffer.from(values.buffer), Buffer.alloc(length - values.byteLength)]));
    offset += length;
  }
  const head = Buffer.concat([
    u32(MAGIC),
    u32(VERSION),
    u64(tensors.size),
    u64(Object.keys(metadata).length),
    ...keys,
    ...infos,
  ]);
  return Buffer.concat([head, Buffer.alloc(padded(head.length) - head.length), ...data]);
}

interface Config {
  readonly model_type: string;
  readonly hidden_size: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads?: number;
  readonly multi_query_group_num?: number;
  readonly head_dim?: number;
  readonly num_hidden_layers?: number;
  readonly num_layers?: number;
  readonly intermediate_size?: number;
  readonly ffn_hidden_size?: number;
  readonly max_position_embeddings?: number;
  readonly seq_length?: number;
  readonly rms_norm_eps?: number;
  readonly layernorm_epsilon?: number;
  readonly rope_ratio?: number;
  readonly sliding_window?: number | null;
  readonly rope_parameters?: Readonly<Record<string, number>>;
}

/** llama.cpp rotates neighbouring rows of a head, Hugging Face's Llama its halves. */
function permuted({ shape, values }: Tensor, heads: number): Tensor {
  const [rows = 0] = shape;
  const width = values.length / rows;
  const half = rows / heads / 2;
  const moved = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const [head, place] = [Math.floor(row / (2 * half)), row % (2 * half)];
    const target = head * 2 * half + 2 * (place % half) + Math.floor(place / half);
    moved.set(values.subarray(row * width, (row + 1) * width), target * width);
  }
  return { shape, values: moved };
}

/** Names of a block's parts. */
const PARTS: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'self_attention.query_key_value': 'attn_qkv',
  'self_attention.dense': 'attn_output',
  post_attention_layernorm: 'ffn_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  'mlp.dense_h_to_4h': 'ffn_up',
  'mlp.dense_4h_to_h': 'ffn_down',
};
const WHOLE: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
  'transformer.embedding.word_embeddings.weight': 'token_embd.weight',
  'transformer.encoder.final_layernorm.weight': 'output_norm.weight',
  'transformer.output_layer.weight': 'output.weight',
};
/** Families whose q and k are permuted. */
const PERMUTED = ['llama', 'baichuan'];

/** `W_pack` as the three layers that it is. */
function unpacked(tensors: ReadonlyMap<string, Tensor>): [string, Tensor][] {
  return [...tensors].flatMap(([name, tensor]): [string, Tensor][] => {
    if (!name.includes('W_pack')) return [[name, tensor]];
    const rows = (tensor.shape[0] ?? 0) / 3;
    const parts = ['q_proj', 'k_proj', 'v_proj'];
    return parts.map((part, at) => [name.replace('W_pack', part), rowsOf(tensor, at * rows, (at + 1) * rows)]);
  });
}

function tensorsOf(folder: string, architecture: string, heads: number, keyHeads: number): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const [name, tensor] of unpacked(readTensors(join(folder, 'model.safetensors')))) {
    const block = /^(?:model|transformer\.encoder)\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
    const [, layer, module = '', kind] = block ?? [];
    const part = PARTS[module];
    const own = part === undefined ? WHOLE[name] : `blk.${layer}.${part}.${kind}`;
    // Such as rotary frequencies, which the file has as settings.
    if (own === undefined) continue;
    const count = { attn_q: heads, attn_k: keyHeads }[part ?? ''];
    found.set(own, count !== undefined && PERMUTED.includes(architecture) ? permuted(tensor, count) : tensor);
  }
  return found;
}

/** Llama 3's factors by which frequencies are divided, as `rope_freqs.weight`. */
function llama3Factors(rope: Readonly<Record<string, number>>, headDim: number): Tensor {
  const { rope_theta = 0, factor = 1, low_freq_factor: low = 1, high_freq_factor: high = 1 } = rope;
  const context = rope.original_max_position_embeddings ?? 0;
  const values = Float32Array.from({ length: headDim / 2 }, (_, pair) => {
    const wavelength = 2 * Math.PI * rope_theta ** ((2 * pair) / headDim);
    if (wavelength < context / high) return 1;
    if (wavelength > context / low) return factor;
    const smooth = (context / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  return { shape: [headDim / 2], values };
}

/** The file's bytes. @param folder With `config.json` and `model.safetensors`. */
export function ggufOf(folder: string): Buffer {
  const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Config;
  // Mistral is Llama there.
  const architecture = config.model_type === 'mistral' ? 'llama' : config.model_type;
  const heads = config.num_attention_heads;
  const keyHeads = config.num_key_value_heads ?? config.multi_query_group_num ?? heads;
  const headDim = config.head_dim ?? config.hidden_size / heads;
  const tensors = tensorsOf(folder, architecture, heads, keyHeads);
  const rope = config.rope_parameters ?? {};
  const kind = String(rope.rope_type ?? 'default');
  if (kind === 'llama3') tensors.set('rope_freqs.weight', llama3Factors(rope, headDim));
  const base = (rope.rope_theta ?? 10_000) * (config.rope_ratio ?? 1);
  const key = (name: string): string => `${architecture}.${name}`;
  const metadata = {
    'general.architecture': architecture,
    'general.name': 'tiny',
    [key('block_count')]: config.num_hidden_layers ?? config.num_layers,
    [key('context_length')]: config.max_position_embeddings ?? config.seq_length,
    [key('embedding_length')]: config.hidden_size,
    [key('feed_forward_length')]: config.intermediate_size ?? config.ffn_hidden_size,
    [key('attention.head_count')]: heads,
    [key('attention.head_count_kv')]: keyHeads,
    [key('attention.layer_norm_rms_epsilon')]: new Float(config.rms_norm_eps ?? config.layernorm_epsilon ?? 0),
    [key('rope.freq_base')]: new Float(base),
    [key('rope.dimension_count')]: architecture === 'chatglm' ? headDim / 2 : headDim,
    ...(config.head_dim === undefined
      ? {}
      : { [key('attention.key_length')]: headDim, [key('attention.value_length')]: headDim }),
    ...(config.sliding_window ? { [key('attention.sliding_window')]: config.sliding_window } : {}),
    ...(kind === 'linear'
      ? { [key('rope.scaling.type')]: 'linear', [key('rope.scaling.factor')]: new Float(rope.factor ?? 1) }
      : {}),
    ...lettersGguf(tensors.get('token_embd.weight')?.shape[0] ?? 0),
  };
  return file(metadata, tensors);
}
