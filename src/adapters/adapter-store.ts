import type { AdapterHandle, AdapterInfo, AdapterMetadata } from '../engine/engine.ts';
import type { ModelLease } from '../models/model-registry.ts';

/** A stored adapter: a PEFT folder in the data folder, and what is known of it. Never changes. */
export interface StoredAdapter {
  /** `adapters/{id}`. */
  readonly name: string;
  /** `models/{id}`. */
  readonly baseModel: string;
  readonly info: AdapterInfo;
  /** Empty strings where an imported adapter carries none. The hash is that of the base that it may be used with. */
  readonly origin: AdapterMetadata;
  readonly templateVersion: string;
  readonly sizeBytes: number;
  /** `trainingJobs/{id}`, or empty. */
  readonly trainingJob: string;
  readonly createTime: Date;
  /** Absolute. */
  readonly folder: string;
}

/** Whether an adapter was accepted for another base than its files carry the content hash of. */
export const isForOtherBase = ({ info, origin }: StoredAdapter): boolean =>
  info.metadata !== null && info.metadata.baseModelHash !== origin.baseModelHash;

/** An adapter in memory, kept until `release`. */
export interface AdapterLease {
  readonly adapter: StoredAdapter;
  readonly handle: AdapterHandle;
  /** Idempotent. */
  release(): void;
}

/** The adapters. Every `adapter` below is `adapters/{id}`, a bare id, or `trainingJobs/{id}` of a succeeded job. */
export interface AdapterStore {
  /** Throws ADAPTER_NOT_FOUND. */
  get(adapter: string): StoredAdapter;
  /** Reads it into memory beside its base, cached; concurrent calls load once. Throws ADAPTER_MISMATCH for another base. */
  acquire(adapter: string, base: ModelLease): Promise<AdapterLease>;
}
