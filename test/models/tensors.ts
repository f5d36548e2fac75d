/** Reads a safetensors file whole, as f32: for small models. https://github.com/huggingface/safetensors#format */
import { readFileSync } from 'node:fs';

/** A tensor in rows. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

function floats(dtype: string, bytes: Buffer): Float32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (dtype === 'F32') return Float32Array.from({ length: bytes.length / 4 }, (_, at) => view.getFloat32(4 * at, true));
  if (dtype !== 'BF16') throw new Error(`${dtype} is not read here; expected F32 or BF16`);
  const words = new Uint32Array(bytes.length / 2).map((_, at) => view.getUint16(2 * at, true) << 16);
  return new Float32Array(words.buffer);
}

/** Every tensor by its name. */
export function readTensors(path: string): Map<string, Tensor> {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, start)) as Record<string, Entry>;
  const tensors = Object.entries(header).filter(([name]) => name !== '__metadata__');
  return new Map(
    tensors.map(
      ([
        name,
        {
          dtype,
          shape,
          data_offsets: [from, to],
        },
      ]) => [name, { shape, values: floats(dtype, bytes.subarray(start + from, start + to)) }],
    ),
  );
}

/** Some rows of a tensor. */
export function rowsOf({ shape, values }: Tensor, from: number, to: number): Tensor {
  const [rows = 0, ...rest] = shape;
  const width = values.length / rows;
  return { shape: [to - from, ...rest], values: values.slice(from * width, to * width) };
}
