/**
 * Each job's scalars as files: `metrics.jsonl` and a TensorBoard event file in `{folder}/{job id}`. They follow from the stored events alone,
 * byte for byte, so they can be made again; nothing reads them back, and a job does not wait for them.
 */
import { createWriteStream } from 'node:fs';
import { appendFile, mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import type { TrainingJob } from '../gen/luthier/v1/training_service.ts';
import { ENDED, hasEnded, label } from '../jobs/job-state.ts';
import type { EventLog, JobStore } from '../jobs/job-store.ts';
import type { Logger } from '../logging/logger.ts';
import { idOf } from '../store/resource-id.ts';
import { fileHeader, scalarRecord } from './event-file.ts';
import { type JobScalars, scalarsOf } from './scalars.ts';

export interface MetricFilesOptions {
  /** Absolute; exists. */
  readonly folder: string;
  readonly store: Pick<JobStore, 'get' | 'list'> & Pick<EventLog, 'watch'>;
  readonly logger: Pick<Logger, 'warn'>;
}

interface Follower {
  readonly controller: AbortController;
  readonly done: Promise<void>;
}

/** Jobs looked at at once on start-up. */
/** What job ids are. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const PAGE = 100;
/** Bytes that a file's last line is within. */
const LAST_LINE_BYTES = 256;

async function* jsonLines(scalars: AsyncIterable<JobScalars>): AsyncGenerator<string, void, undefined> {
  // JSON has no word for what is no finite number: `JSON.stringify` writes null.
  for await (const { sequence, time, step, values } of scalars) {
    yield `${JSON.stringify({ sequence, time, step, ...values })}\n`;
  }
}

async function* eventRecords(begun: Date, scalars: AsyncIterable<JobScalars>): AsyncGenerator<Buffer, void, undefined> {
  yield fileHeader(begun);
  for await (const scalar of scalars) yield scalarRecord(scalar);
}

/** The line that `metrics.jsonl` ends with once both files are whole. */
function lastLine({ lastSequence, endTime, state }: TrainingJob): string {
  return `${JSON.stringify({ sequence: lastSequence, time: endTime, state: label(state).toLowerCase() })}\n`;
}

/** Whether a file ends with the last line of a job that has ended. */
async function isWhole(path: string, job: TrainingJob): Promise<boolean> {
  const file = await open(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (file === null) return false;
  try {
    const { size } = await file.stat();
    const { buffer, bytesRead } = await file.read({
      buffer: Buffer.alloc(LAST_LINE_BYTES),
      position: Math.max(0, size - LAST_LINE_BYTES),
    });
    return buffer.toString('utf8', 0, bytesRead).endsWith(lastLine(job));
  } finally {
    await file.close();
  }
}

export class MetricFiles {
  readonly #options: MetricFilesOptions;
  readonly #followers = new Map<string, Follower>();
  readonly #closing = new AbortController();
  #catchingUp: Promise<void> = Promise.resolve();

  constructor(options: MetricFilesOptions) {
    this.#options = options;
  }

  /** Writes a job's files while it runs, until it has ended. What goes wrong is logged, and the job goes on. */
  follow(name: string): void {
    const earlier = this.#followers.get(name);
    if (earlier === undefined) void this.#follow(name);
    // It may just be finishing the files of a job that had failed and goes on.
    else void earlier.done.then(() => this.#followOn(name));
  }

  /** Deletes the files of jobs that are gone, and makes those of ended jobs that are not there or not whole, beside what else happens. */
  catchUp(): void {
    this.#catchingUp = this.#catchUp().catch((error: unknown) => {
      if (!this.#closing.signal.aborted) this.#options.logger.warn({ err: error }, 'metric files were not looked at');
    });
  }

  /** Deletes a job's files. To be called once the job is gone from the store, or they would be made again. Idempotent. */
  async remove(name: string): Promise<void> {
    const follower = this.#followers.get(name);
    follower?.controller.abort();
    await follower?.done;
    await rm(this.#folderOf(name), { recursive: true, force: true });
  }

  /** Finishes the files of jobs that have ended and leaves the others to the next server. */
  async close(): Promise<void> {
    this.#closing.abort();
    await this.#catchingUp;
    for (const [name, { controller, done }] of this.#followers) {
      const job = await this.#options.store.get(name).catch(() => null);
      if (job === null || !hasEnded(job.state)) controller.abort();
      await done;
    }
  }

  /** Follows a job again whose files are not those of all its events. */
  async #followOn(name: string): Promise<void> {
    try {
      const job = await this.#options.store.get(name);
      if (this.#closing.signal.aborted || this.#followers.has(name)) return;
      if (hasEnded(job.state) && (await isWhole(join(this.#folderOf(name), 'metrics.jsonl'), job))) return;
      this.follow(name);
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#options.logger.warn({ job: name, err: error }, 'a job is not followed');
    }
  }

  #follow(name: string, parent?: AbortSignal): Promise<void> {
    const controller = new AbortController();
    const signal = parent ? AbortSignal.any([controller.signal, parent]) : controller.signal;
    const done = this.#write(name, signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.#options.logger.warn({ job: name, err: error }, 'metric files were not written');
      })
      .finally(() => this.#followers.delete(name));
    this.#followers.set(name, { controller, done });
    return done;
  }

  async #write(name: string, signal: AbortSignal): Promise<void> {
    const { store } = this.#options;
    const { createTime = new Date(0) } = await store.get(name);
    const folder = this.#folderOf(name);
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const seconds = String(Math.floor(createTime.getTime() / 1000)).padStart(10, '0');
    const jsonFile = join(folder, 'metrics.jsonl');
    const eventFile = join(folder, `events.out.tfevents.${seconds}.luthier`);
    const scalars = () => scalarsOf(store.watch(name, 0, signal));
    // Each file has a reader of its own and is as slow as its disk.
    const written = await Promise.allSettled([
      pipeline(jsonLines(scalars()), createWriteStream(jsonFile), { signal }),
      pipeline(eventRecords(createTime, scalars()), createWriteStream(eventFile), { signal }),
    ]);
    for (const result of written) if (result.status === 'rejected') throw result.reason;
    await appendFile(jsonFile, lastLine(await store.get(name)));
  }

  async #catchUp(): Promise<void> {
    const { signal } = this.#closing;
    await this.#sweep();
    for (let before: number | null = null; ; ) {
      const page: Awaited<ReturnType<JobStore['list']>> = await this.#options.store.list(before, PAGE, {
        states: ENDED,
      });
      for (const { job } of page) {
        if (signal.aborted) return;
        const { name, lastStep, lastEvaluation } = job;
        if ((lastStep ?? lastEvaluation) === undefined || this.#followers.has(name)) continue;
        if (!(await isWhole(join(this.#folderOf(name), 'metrics.jsonl'), job))) await this.#follow(name, signal);
      }
      before = page.at(-1)?.number ?? null;
      if (before === null) return;
    }
  }

  /** A server may have died between deleting a job and its files. Folders with other names are not of jobs. */
  async #sweep(): Promise<void> {
    for (const id of await readdir(this.#options.folder)) {
      if (!UUID.test(id)) continue;
      const isGone = await this.#options.store.get(`trainingJobs/${id}`).then(
        () => false,
        (error: unknown) => error instanceof LuthierError && error.reason === 'JOB_NOT_FOUND',
      );
      if (isGone) await rm(join(this.#options.folder, id), { recursive: true, force: true });
    }
  }

  #folderOf(name: string): string {
    return join(this.#options.folder, idOf(name));
  }
}
