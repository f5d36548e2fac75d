import { z } from 'zod';
import { ADAPTER_FILES, CONFIG_FILE, EXPECTED_FILES } from '../../adapters/adapter-files.ts';
import type { MergeFormat } from '../../engine/engine.ts';
import { MergeFormat as MergeFormatNumber } from '../../gen/luthier/v1/adapter_service.ts';
import {
  expected,
  loadInField,
  optionalName,
  page,
  requestId,
  resourceId,
  resourceName,
  wholeNumber,
} from './fields.ts';

const name = resourceName('an adapter: `adapters/{id}`');
const path = z.string().min(1, expected('a path')).max(4096, expected('at most 4096 characters'));

export const getSchema = z.object({ name });
export const deleteSchema = z.object({ name, requestId });
export const listSchema = z.object(page);
/** ImportAdapterRequest. */
export const importSchema = z.object({
  requestId,
  adapterId: resourceId,
  path,
  baseModel: optionalName,
  allowOtherBase: z.boolean(),
});
/** ExportAdapterRequest. */
export const exportSchema = z.object({ name, path, requestId });

const FORMATS: ReadonlyMap<MergeFormatNumber, MergeFormat> = new Map([
  [MergeFormatNumber.MERGE_FORMAT_UNSPECIFIED, 'safetensors_bf16'],
  [MergeFormatNumber.MERGE_FORMAT_SAFETENSORS_BF16, 'safetensors_bf16'],
  [MergeFormatNumber.MERGE_FORMAT_SAFETENSORS_F16, 'safetensors_f16'],
  [MergeFormatNumber.MERGE_FORMAT_GGUF_F16, 'gguf_f16'],
  [MergeFormatNumber.MERGE_FORMAT_GGUF_Q8_0, 'gguf_q8_0'],
]);

/** MergeAdapterRequest. */
export const mergeSchema = z.object({
  name,
  path,
  requestId,
  format: z
    .custom<MergeFormatNumber>((value) => FORMATS.has(value as MergeFormatNumber), expected('a MergeFormat'))
    .transform((value) => FORMATS.get(value) ?? 'safetensors_bf16'),
  baseModel: optionalName,
  loadIn: loadInField,
});

/** adapter_config.json; the weights have the server's own limit. */
const MAX_CONFIG_BYTES = 2 ** 20;
const FILES = expected(`${EXPECTED_FILES}, each once`);

const file = z
  .object({
    name: z.enum(ADAPTER_FILES, expected(`one of ${ADAPTER_FILES.join(', ')}`)),
    sizeBytes: wholeNumber(1, Number.MAX_SAFE_INTEGER),
    sha256: z.string().regex(/^[0-9a-f]{64}$/, expected('a SHA-256 as 64 lower-case hex digits')),
  })
  .refine((one) => one.name !== CONFIG_FILE || one.sizeBytes <= MAX_CONFIG_BYTES, {
    path: ['sizeBytes'],
    message: `expected at most ${MAX_CONFIG_BYTES} bytes of settings`,
  });

/** UploadAdapterHeader. */
export const uploadHeaderSchema = z.object({
  requestId,
  adapterId: resourceId,
  baseModel: optionalName,
  allowOtherBase: z.boolean(),
  overwrite: z.boolean(),
  files: z
    .array(file)
    .refine((files) => new Set(files.map((one) => one.name)).size === files.length, FILES)
    .refine((files) => files.length === 2 && files.some((one) => one.name === CONFIG_FILE), FILES),
});
