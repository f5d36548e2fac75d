import { sep } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { ModelLease } from '../models/model-registry.ts';

const resource = (name: string) => ({ resource: { type: 'adapter', name } });

export function adapterNotFound(adapter: string): LuthierError {
  return new LuthierError(
    'ADAPTER_NOT_FOUND',
    `there is no adapter ${JSON.stringify(adapter)}; expected adapters/{id}, or trainingJobs/{id} of a job that succeeded`,
    resource(adapter),
  );
}

export function adapterExists(name: string): LuthierError {
  return new LuthierError(
    'ADAPTER_EXISTS',
    `${name} is there already; choose another adapter_id, delete it, or upload with overwrite`,
    resource(name),
  );
}

/** An error of the engine about an adapter's files, with what the client calls them in place of the server's own folder. */
export function aboutAdapter(error: unknown, folder: string, called: string): LuthierError {
  const known = toLuthierError(error);
  if (!known.message.includes(folder)) return known;
  const message = known.message.replaceAll(`${folder}${sep}`, `${called}: `).replaceAll(folder, called);
  return new LuthierError(known.reason, message, { cause: error, metadata: known.metadata });
}

export function adapterInUse(name: string, by: string): LuthierError {
  return new LuthierError('ADAPTER_IN_USE', `${name} is used by ${by}; repeat when that has ended`, resource(name));
}

/**
 * Refuses an adapter that says it was trained on other weights than these.
 * @param hash The base's content hash that the adapter carries; empty: none, nothing is refused.
 * @throws LuthierError ADAPTER_MISMATCH
 */
export function checkBaseHash(adapter: string, hash: string, base: Pick<ModelLease, 'registered'>): void {
  const { name, metadata } = base.registered;
  if (hash === '' || hash === metadata.contentHash) return;
  throw new LuthierError(
    'ADAPTER_MISMATCH',
    `${adapter} was trained on a base with content hash ${hash}, ${name} has ${metadata.contentHash}; use it with the base it was trained on, or import it with allow_other_base`,
    { ...resource(adapter), metadata: { expected: hash, found: metadata.contentHash } },
  );
}
