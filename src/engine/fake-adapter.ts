/** Adapters of the fake engine: PEFT's two files with small tensors, written and read without the addon. */
import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import type { AdapterInfo, AdapterMetadata, LoraConfig, ModelMetadata, SavedAdapter } from './engine.ts';
import { EngineError, type EngineErrorCode } from './errors.ts';

const CONFIG_FILE = 'adapter_config.json';
const WEIGHTS_FILE = 'adapter_model.safetensors';
/** Read where the other is missing. */
const OLD_WEIGHTS_FILE = 'adapter_model.bin';

/** `[rows, columns]` by tensor name, as PEFT names them. */
type AdapterShapes = Readonly<Record<string, readonly [number, number]>>;

type Widths = Pick<
  ModelMetadata,
  'hiddenSize' | 'intermediateSize' | 'numAttentionHeads' | 'numKeyValueHeads' | 'headDim'
>;

/** Inputs and outputs of a linear layer. */
function widthsOf(module: string, model: Widths): readonly [number, number] {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim } = model;
  switch (module) {
    case 'q_proj':
      return [hiddenSize, numAttentionHeads * headDim];
    case 'k_proj':
    case 'v_proj':
      return [hiddenSize, numKeyValueHeads * headDim];
    case 'o_proj':
      return [numAttentionHeads * headDim, hiddenSize];
    case 'down_proj':
      return [intermediateSize, hiddenSize];
    default:
      return [hiddenSize, intermediateSize];
  }
}

/** A and B of the target modules in every layer. */
function adapterShapes(model: ModelMetadata, r: number, targetModules: readonly string[]): AdapterShapes {
  const shapes: Record<string, readonly [number, number]> = {};
  for (let layer = 0; layer < model.numHiddenLayers; layer++) {
    for (const module of targetModules) {
      const [inputs, outputs] = widthsOf(module, model);
      const block = ['q_proj', 'k_proj', 'v_proj', 'o_proj'].includes(module) ? 'self_attn' : 'mlp';
      const path = `base_model.model.model.layers.${layer}.${block}.${module}`;
      shapes[`${path}.lora_A.weight`] = [r, inputs];
      shapes[`${path}.lora_B.weight`] = [outputs, r];
    }
  }
  return shapes;
}

const sizeOf = (shapes: AdapterShapes): number =>
  Object.values(shapes).reduce((sum, [rows, columns]) => sum + rows * columns, 0);

/** Writes both files. Every value is `value`, so that equal runs give equal hashes and different ones do not. */
export async function writeFakeAdapter(
  folder: string,
  model: ModelMetadata,
  lora: Omit<LoraConfig, 'targetModules'> & { readonly targetModules: readonly string[] },
  value: number,
  metadata: AdapterMetadata,
): Promise<SavedAdapter> {
  const shapes = adapterShapes(model, lora.r, lora.targetModules);
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const end = offset + 4 * shape[0] * shape[1];
    header[name] = { dtype: 'F32', shape, data_offsets: [offset, end] };
    offset = end;
  }
  const json = JSON.stringify(header);
  const text = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const values = Buffer.alloc(offset);
  for (let position = 0; position < offset; position += 4) values.writeFloatLE(value, position);
  const weights = Buffer.concat([length, text, values]);
  const config = Buffer.from(
    JSON.stringify(
      {
        base_model_name_or_path: metadata.baseModelName,
        bias: 'none',
        lora_alpha: lora.loraAlpha,
        lora_dropout: lora.loraDropout,
        peft_type: 'LORA',
        r: lora.r,
        target_modules: lora.targetModules,
        task_type: 'CAUSAL_LM',
        use_rslora: lora.useRslora,
        luthier: {
          base_model_hash: metadata.baseModelHash,
          base_model_name: metadata.baseModelName,
          template: metadata.template,
          template_hash: metadata.templateHash,
          template_id: metadata.templateId,
        },
      },
      null,
      2,
    ),
  );
  try {
    await writeFile(join(folder, WEIGHTS_FILE), weights);
    await writeFile(join(folder, CONFIG_FILE), config);
  } catch (cause) {
    throw new EngineError('IO', `cannot write the adapter to ${folder}: ${(cause as Error).message}`, { cause });
  }
  return { bytes: weights.length + config.length, sha256: createHash('sha256').update(weights).digest('hex') };
}

async function read(folder: string, file: string, missing: EngineErrorCode): Promise<Buffer> {
  try {
    return await readFile(join(folder, file));
  } catch (cause) {
    throw new EngineError(missing, `${folder} has no ${file}; expected a PEFT adapter folder`, { cause });
  }
}

/** The tensors that a safetensors header names; ADAPTER_CORRUPT where the file is not whole. */
function shapesOf(folder: string, weights: Buffer): AdapterShapes {
  try {
    const start = 8 + Number(weights.readBigUInt64LE());
    const header: Record<string, { shape: [number, number] }> = JSON.parse(weights.toString('utf8', 8, start));
    const shapes = Object.fromEntries(
      Object.entries(header).flatMap(([name, { shape }]) => (name === '__metadata__' ? [] : [[name, shape] as const])),
    );
    if (weights.length !== start + 4 * sizeOf(shapes)) throw new Error('the tensors are cut off');
    return shapes;
  } catch (cause) {
    throw new EngineError('ADAPTER_CORRUPT', `${join(folder, WEIGHTS_FILE)}: ${(cause as Error).message}`, { cause });
  }
}

interface ConfigJson {
  readonly r: number;
  readonly lora_alpha: number;
  readonly use_rslora?: boolean;
  readonly luthier?: Readonly<Record<string, string>>;
}

function parseConfig(folder: string, text: Buffer): ConfigJson {
  try {
    return JSON.parse(text.toString('utf8')) as ConfigJson;
  } catch (cause) {
    throw new EngineError('ADAPTER_CORRUPT', `${join(folder, CONFIG_FILE)}: ${(cause as Error).message}`, { cause });
  }
}

/** What `readAdapter` tells, and the shapes that a base model is checked against. */
export async function readFakeAdapter(folder: string): Promise<{ info: AdapterInfo; shapes: AdapterShapes }> {
  const config = parseConfig(folder, await read(folder, CONFIG_FILE, 'ADAPTER_NOT_FOUND'));
  const weights = await read(folder, WEIGHTS_FILE, 'ADAPTER_NOT_FOUND').catch((error: unknown) =>
    read(folder, OLD_WEIGHTS_FILE, 'ADAPTER_NOT_FOUND').catch(() => {
      throw error;
    }),
  );
  const shapes = shapesOf(folder, weights);
  const origin = config.luthier;
  const modules = Object.keys(shapes).map((name) => name.split('.').at(-3) ?? name);
  const info: AdapterInfo = {
    r: config.r,
    loraAlpha: config.lora_alpha,
    useRslora: config.use_rslora ?? false,
    targetModules: [...new Set(modules)].sort(),
    parameterCount: sizeOf(shapes),
    sha256: createHash('sha256').update(weights).digest('hex'),
    metadata:
      origin === undefined
        ? null
        : {
            baseModelName: origin.base_model_name ?? '',
            baseModelHash: origin.base_model_hash ?? '',
            templateId: origin.template_id ?? '',
            templateHash: origin.template_hash ?? '',
            template: origin.template ?? '',
          },
  };
  return { info, shapes };
}

/** As {@link readFakeAdapter}; ADAPTER_MISMATCH where the adapter was made for another base. */
export async function readFakeAdapterFor(model: ModelMetadata, folder: string, anyBase: boolean): Promise<AdapterInfo> {
  const { info, shapes } = await readFakeAdapter(folder);
  const hash = info.metadata?.baseModelHash ?? model.contentHash;
  if (!anyBase && hash !== model.contentHash) {
    throw new EngineError(
      'ADAPTER_MISMATCH',
      `the adapter in ${folder} was made for a model with the hash ${hash}; expected ${model.contentHash} (${model.name})`,
    );
  }
  if (!isDeepStrictEqual(shapes, adapterShapes(model, info.r, info.targetModules))) {
    throw new EngineError('ADAPTER_MISMATCH', `the adapter in ${folder} does not have the shapes of ${model.name}`);
  }
  return info;
}
