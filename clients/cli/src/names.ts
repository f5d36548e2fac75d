/** What people type for models, adapters, data sets and jobs, as the contract names them. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';

/** A value that can only be a path, or one that names something on this machine. */
const isPath = (value: string): boolean => /^[./~]|[\\/]$|\.gguf$|\.safetensors$/.test(value) || existsSync(value);

/** `collection/id` of a bare id; names stay as they are. */
export function resourceName(collection: string, value: string): string {
  return value.startsWith(`${collection}/`) ? value : `${collection}/${value}`;
}

/** A registered model or a path, which becomes absolute: the server has a working folder of its own. */
export function modelName(value: string): string {
  if (value === '' || value.startsWith('models/')) return value;
  return isPath(value) ? resolve(value) : resourceName('models', value);
}

/** A registered adapter, a job, or a path. */
export function adapterTarget(value: string): { readonly kind: 'name' | 'path'; readonly value: string } {
  if (/^(adapters|trainingJobs)\//.test(value)) return { kind: 'name', value };
  return isPath(value)
    ? { kind: 'path', value: resolve(value) }
    : { kind: 'name', value: resourceName('adapters', value) };
}
