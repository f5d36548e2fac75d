/** The queue of one device: stored jobs, as many at a time as it may have, in the store's order. Knows nothing of what training is. */
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { heldLog } from './held-log.ts';
import { hasEnded } from './job-state.ts';
import type { EventLog, FailureCause, JobLeases, JobStore, Lease, Requester } from './job-store.ts';
import { adapterSaved, keptStep, type TrainJobDependencies, trainJob } from './train-job.ts';

export interface JobRunnerOptions extends Omit<TrainJobDependencies, 'log'> {
  readonly store: JobStore & EventLog & JobLeases;
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Jobs that run at the same time; at least 1. */
  readonly maxConcurrentJobs: number;
  /** Told of every job that is taken up; must not throw. */
  readonly onTakenUp?: (name: string) => void;
}

/** A runner that is not heard of for so long has lost its jobs; it says three times as often that it lives. */
const LEASE_MILLISECONDS = 60_000;

/** The waits between attempts to take up a job, or to store how one ended, where the disk refuses. */
const FIRST_WAIT_MILLISECONDS = 1000;
const LONGEST_WAIT_MILLISECONDS = 60_000;

const cancelled = (): LuthierError => new LuthierError('CANCELLED', 'the job was cancelled');
const interrupted = (): LuthierError =>
  new LuthierError('INTERRUPTED', 'the server ended while the job ran; create it again');
const isReason = (error: unknown, reason: string): boolean => error instanceof LuthierError && error.reason === reason;

interface RunningJob {
  readonly controller: AbortController;
  readonly ended: Promise<void>;
  /** Whose call cancelled it. */
  requester?: Requester;
}

export class JobRunner {
  readonly #options: JobRunnerOptions;
  /** No other runner's. */
  readonly #id = randomUUID();
  readonly #closing = new AbortController();
  readonly #running = new Map<string, RunningJob>();
  #working: Promise<void> | null = null;
  #wanted = false;

  constructor(options: JobRunnerOptions) {
    this.#options = options;
  }

  /** Ends what an earlier server left running and takes up the queue. */
  async start(): Promise<void> {
    const { store, folder, logger } = this.#options;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    for (const job of await store.unfinished()) {
      if (job.state === JobState.JOB_STATE_QUEUED) continue;
      if (await this.#finishSaved(job)) continue;
      const { reason, message } = interrupted();
      await store.move(job.name, JobState.JOB_STATE_FAILED, { reason, message });
      logger.warn({ job: job.name }, 'job was interrupted');
    }
    this.wake();
  }

  /** Looks at the queue; to be called when a job was stored. */
  wake(): void {
    this.#wanted = true;
    if (this.#working || this.#closing.signal.aborted) return;
    this.#working = this.#takeUp()
      .catch((cause: unknown) => this.#options.logger.error({ err: cause }, 'the queue could not be read'))
      .finally(() => {
        this.#working = null;
        if (this.#wanted) this.wake();
      });
  }

  /**
   * Ends a job within one micro-step; one that has ended is left as it is.
   * @throws LuthierError JOB_NOT_FOUND
   */
  async cancel(name: string, requester?: Requester): Promise<TrainingJob> {
    const { store } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (hasEnded(job.state)) return job;
      const current = this.#running.get(job.name);
      if (current !== undefined) {
        if (requester) current.requester ??= requester;
        current.controller.abort(cancelled());
        await current.ended;
        return store.get(job.name);
      }
      try {
        await store.move(job.name, JobState.JOB_STATE_CANCELLED, null, JobState.JOB_STATE_QUEUED, { requester });
      } catch (error) {
        // It was taken up meanwhile.
        if (!isReason(error, 'INVALID_STATE')) throw error;
      }
    }
  }

  /** Ends the running jobs as interrupted; queued ones wait for the next server. Idempotent. */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const { controller } of this.#running.values()) controller.abort(interrupted());
    await this.#working;
    await Promise.all(Array.from(this.#running.values(), ({ ended }) => ended));
  }

  /** Takes up as many jobs as may run; each that ends wakes the queue. */
  async #takeUp(): Promise<void> {
    const { store, maxConcurrentJobs } = this.#options;
    this.#wanted = false;
    while (this.#running.size < maxConcurrentJobs && !this.#closing.signal.aborted) {
      const taken = await this.#untilStored('a job could not be taken up', {}, () =>
        store.lease(this.#id, LEASE_MILLISECONDS),
      );
      if (!taken) return;
      const { name } = taken.job;
      const controller = new AbortController();
      // A server that closes meanwhile must not leave it behind as if it ran.
      if (this.#closing.signal.aborted) controller.abort(interrupted());
      const renewing = this.#renew(taken.lease, controller);
      const ended = this.#run(taken.job, taken.lease, controller.signal).finally(() => {
        clearInterval(renewing);
        this.#running.delete(name);
        this.wake();
      });
      this.#running.set(name, { controller, ended });
    }
  }

  /** Keeps a job from other runners while this one has it. A timer does not care for the date. */
  #renew(lease: Lease, controller: AbortController): NodeJS.Timeout {
    const { store, logger } = this.#options;
    const renew = async (): Promise<void> => {
      try {
        await store.renew(lease);
      } catch (error) {
        logger.warn({ job: lease.job, err: error }, 'a lease could not be renewed');
        if (isReason(error, 'LEASE_LOST')) controller.abort(error);
      }
    };
    return setInterval(() => void renew(), LEASE_MILLISECONDS / 3);
  }

  async #run(job: TrainingJob, lease: Lease, signal: AbortSignal): Promise<void> {
    const { store, logger, onTakenUp, ...rest } = this.#options;
    const log = heldLog(store, lease);
    logger.info({ job: job.name }, 'job started');
    onTakenUp?.(job.name);
    try {
      await trainJob({ log, logger, ...rest }, job, signal);
    } catch (thrown) {
      const error = signal.aborted ? toLuthierError(signal.reason) : toLuthierError(thrown);
      if (error.reason === 'INTERNAL') logger.error({ job: job.name, err: error.cause }, 'job failed');
      else logger.info({ job: job.name, reason: error.reason }, 'job ended');
      if (error.reason === 'CANCELLED') return this.#end(log, job.name, JobState.JOB_STATE_CANCELLED, null);
      return this.#end(log, job.name, JobState.JOB_STATE_FAILED, error);
    }
    await this.#end(log, job.name, JobState.JOB_STATE_SUCCEEDED, null);
    logger.info({ job: job.name }, 'job succeeded');
  }

  /** Stores how a job ended. */
  async #end(log: EventLog, name: string, to: JobState, cause: FailureCause | null): Promise<void> {
    const failure = cause && { reason: cause.reason, message: cause.message };
    const requester = to === JobState.JOB_STATE_CANCELLED ? this.#running.get(name)?.requester : undefined;
    await this.#untilStored('the end of a job could not be stored', { job: name }, () =>
      log.move(name, to, failure, undefined, { requester }),
    );
  }

  /**
   * A full disk is waited for: no other job could be stored either.
   * @returns Null where the server closes meanwhile (the next one finds the job as it is), or another runner has the job.
   */
  async #untilStored<Result>(problem: string, about: object, action: () => Promise<Result>): Promise<Result | null> {
    const { signal } = this.#closing;
    for (let wait = FIRST_WAIT_MILLISECONDS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MILLISECONDS)) {
      try {
        return await action();
      } catch (error) {
        const lost = isReason(error, 'LEASE_LOST');
        this.#options.logger.error({ ...about, err: error, waitMilliseconds: lost ? 0 : wait }, problem);
        if (lost || signal.aborted) return null;
        await sleep(wait, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** A job whose adapter was stored before the server died has succeeded. */
  async #finishSaved(job: TrainingJob): Promise<boolean> {
    const { store, adapters } = this.#options;
    if (!adapters.has(job.name)) return false;
    if (job.adapter === '') await store.append(job.name, adapterSaved(adapters.get(job.name), keptStep(job)));
    await store.move(job.name, JobState.JOB_STATE_SUCCEEDED);
    return true;
  }
}
