/**
 * Checkpoints of jobs: folders `{job id}/{step}-{number}`, each there whole or not at all. Numbers count a job's checkpoints up, so that the highest is
 * the newest whatever the clock says.
 */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { SavedCheckpoint } from '../engine/engine.ts';
import {
  isWritingFolder,
  makeWritingFolder,
  moveIntoPlace,
  removeFolder,
  removeLeftovers,
  sync,
} from '../store/durable-folders.ts';
import { idOf } from '../store/resource-id.ts';
import { type Manifest, readManifest, writeManifest } from './manifest.ts';

/** What a checkpoint belongs to. */
export type CheckpointFacts = Pick<Manifest, 'job' | 'specHash' | 'baseModelHash'>;

/** A checkpoint's folder, whatever is in it. */
export interface CheckpointFolder {
  readonly path: string;
  /** `{job id}/{step}-{number}`, for people. */
  readonly name: string;
}

/** A checkpoint that is whole as far as its manifest tells. */
export interface StoredCheckpoint extends CheckpointFolder {
  readonly manifest: Manifest;
  /** Of the engine's files. */
  readonly sizeBytes: number;
}

const NAME = /^(\d+)-(\d+)$/;
const numberOf = (name: string): number => Number(NAME.exec(name)?.[2] ?? 0);
const sizeOf = ({ files }: Manifest): number => files.reduce((sum, { bytes }) => sum + bytes, 0);

/** A folder that is not there has no entries. */
async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });
}

export class CheckpointStore {
  readonly #folder: string;

  /** @param folder Absolute; exists, on the file system of the data folder. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Deletes what a crash left half-written, and what belongs to no job any more.
   * @param isKept Whether a job with this name can still go on.
   */
  async removeLeftovers(isKept: (job: string) => Promise<boolean>): Promise<void> {
    const kept = new Set<string>();
    for (const id of await readdir(this.#folder)) if (await isKept(`trainingJobs/${id}`)) kept.add(id);
    await removeLeftovers(this.#folder, (id) => kept.has(id));
    for (const id of kept)
      await removeLeftovers(join(this.#folder, id), (name) => !isWritingFolder(name) && NAME.test(name));
  }

  /** Newest first. @param job `trainingJobs/{id}` */
  async list(job: string): Promise<readonly CheckpointFolder[]> {
    const id = idOf(job);
    const names = (await namesIn(this.#folderOf(job))).filter((name) => NAME.test(name));
    return names
      .sort((one, other) => numberOf(other) - numberOf(one))
      .map((name) => ({ path: join(this.#folder, id, name), name: `${id}/${name}` }));
  }

  /** @throws LuthierError CHECKPOINT_CORRUPT */
  async read(checkpoint: CheckpointFolder): Promise<StoredCheckpoint> {
    const manifest = await readManifest(checkpoint.path);
    return { ...checkpoint, manifest, sizeBytes: sizeOf(manifest) };
  }

  /**
   * Makes a checkpoint; it is on the disk, whole, once this returns. A job's folder that is gone is made anew.
   * @param write Fills an empty folder and writes its files through to the disk.
   * @throws what `write` and the file system throw; nothing is left then
   */
  async save(facts: CheckpointFacts, write: (folder: string) => Promise<SavedCheckpoint>): Promise<StoredCheckpoint> {
    const parent = this.#folderOf(facts.job);
    await mkdir(parent, { recursive: true, mode: 0o700 });
    await sync(this.#folder);
    const folder = await makeWritingFolder(parent);
    try {
      const { globalStep, files } = await write(folder);
      const manifest = { ...facts, globalStep, createTime: new Date().toISOString(), files: [...files] };
      await writeManifest(folder, manifest);
      const [newest] = await this.list(facts.job);
      const name = `${globalStep}-${newest === undefined ? 1 : numberOf(basename(newest.path)) + 1}`;
      const path = join(parent, name);
      await moveIntoPlace(folder, path);
      return { path, name: `${idOf(facts.job)}/${name}`, manifest, sizeBytes: sizeOf(manifest) };
    } finally {
      // Gone where it was moved.
      await rm(folder, { recursive: true, force: true });
    }
  }

  /**
   * Deletes all but the newest.
   * @param keep How many stay.
   * @param useless Names of those that could not be gone on from: deleted, too.
   */
  async prune(job: string, keep: number, useless: readonly string[]): Promise<void> {
    const all = await this.list(job);
    const kept = all.filter(({ name }) => !useless.includes(name)).slice(0, keep);
    for (const { name, path } of all) if (!kept.some((one) => one.name === name)) await removeFolder(path);
  }

  /** Deletes all of a job. Idempotent. */
  async remove(job: string): Promise<void> {
    await removeFolder(this.#folderOf(job));
  }

  #folderOf(job: string): string {
    return join(this.#folder, idOf(job));
  }
}
