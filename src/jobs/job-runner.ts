/** The queue of one device: stored jobs, as many at a time as it may have, in the store's order. Knows nothing of what training is. */
import { randomUUID } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { heldLog, LEASE_MILLISECONDS } from './held-log.ts';
import { hasEnded, stateRefusal } from './job-state.ts';
import type { EventLog, FailureCause, JobLeases, JobStore, Lease, Requester } from './job-store.ts';
import { finishSaved, recoverJobs } from './recover-jobs.ts';
import { StopRequest, stopRequestOf } from './stop-request.ts';
import { type TrainJobDependencies, trainJob } from './train-job.ts';

export interface JobRunnerOptions extends Omit<TrainJobDependencies, 'log'> {
  readonly store: JobStore & EventLog & JobLeases;
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Jobs that run at the same time; at least 1. */
  readonly maxConcurrentJobs: number;
  /** Told of every job that is taken up; must not throw. */
  readonly onTakenUp?: (name: string) => void;
}

/** The waits between attempts to take up a job, or to store how one ended, where the disk refuses. */
const FIRST_WAIT_MILLISECONDS = 1000;
const LONGEST_WAIT_MILLISECONDS = 60_000;

/** How long a server that ends waits for the running job's checkpoint. */
const CLOSE_MILLISECONDS = 60_000;

const { JOB_STATE_QUEUED, JOB_STATE_PAUSED } = JobState;
const { JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED } = JobState;

const STOPPED = {
  reason: 'DRAINING',
  message: 'the server was stopped while the job ran; it goes on from its checkpoint when a server runs again',
} as const;

const isReason = (error: unknown, reason: string): boolean => error instanceof LuthierError && error.reason === reason;

/** Whether a job ended as it was asked to, rather than failed by itself. */
function isStopped({ kind }: StopRequest, thrown: unknown, { reason }: LuthierError): boolean {
  // An engine that is closed under a run says DRAINING; what is cut off while data are read may say CANCELLED.
  return kind === 'cancel' || thrown instanceof StopRequest || reason === 'CANCELLED' || reason === 'DRAINING';
}

interface RunningJob {
  readonly controller: AbortController;
  readonly ended: Promise<void>;
  /** Whose call cancelled or paused it. */
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

  /** Puts what an earlier server left running back into the queue and takes that up. */
  async start(): Promise<void> {
    const { folder } = this.#options;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    await recoverJobs(this.#options, this.#id);
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
      // A pause may have come before, and taken effect.
      if (await this.#stop(job.name, 'cancel', requester)) continue;
      await this.#moveResting(job, JOB_STATE_CANCELLED, requester);
    }
  }

  /**
   * Stops a job so that it can go on: a running one within one micro-step, once its checkpoint is on the disk. A paused one is left as it is.
   * @throws LuthierError JOB_NOT_FOUND; INVALID_STATE where it has ended
   */
  async pause(name: string, requester?: Requester): Promise<TrainingJob> {
    const { store } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (job.state === JOB_STATE_PAUSED) return job;
      if (hasEnded(job.state)) throw stateRefusal(job, 'a job that has not ended');
      if (await this.#stop(job.name, 'pause', requester)) continue;
      await this.#moveResting(job, JOB_STATE_PAUSED, requester);
    }
  }

  /**
   * Puts a paused job, or a failed one that has a checkpoint, back into the queue. One that waits or runs is left as it is.
   * @throws LuthierError JOB_NOT_FOUND; INVALID_STATE for any other
   */
  async resume(name: string, requester?: Requester): Promise<TrainingJob> {
    const { store, checkpoints } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (hasEnded(job.state)) {
        const canGoOn = job.state === JOB_STATE_FAILED && (await checkpoints.list(job.name)).length > 0;
        if (!canGoOn) throw stateRefusal(job, 'PAUSED, or FAILED with a checkpoint: create a new job instead');
      } else if (job.state !== JOB_STATE_PAUSED) return job;
      await this.#moveResting(job, JOB_STATE_QUEUED, requester);
      this.wake();
    }
  }

  /**
   * Stops the running jobs behind their checkpoints and puts them back into the queue, which waits for the next server. A checkpoint that takes too long is
   * not waited for: the next server goes on from the one before. Idempotent.
   */
  async close(): Promise<void> {
    this.#closing.abort();
    for (const { controller } of this.#running.values()) controller.abort(new StopRequest('close'));
    const stopped = new AbortController();
    const late = sleep(CLOSE_MILLISECONDS, 'late', { ref: false, signal: stopped.signal }).catch(() => null);
    const outcome = await Promise.race([this.#stopped(), late]);
    stopped.abort();
    if (outcome === 'late') this.#options.logger.warn('a running job did not stop in time');
  }

  /** Resolves once nothing is taken up and nothing runs. */
  async #stopped(): Promise<void> {
    await this.#working;
    await Promise.all(Array.from(this.#running.values(), ({ ended }) => ended));
  }

  /** Asks a job that runs here to stop and waits until it has. @returns False where it does not run here. */
  async #stop(name: string, kind: StopRequest['kind'], requester?: Requester): Promise<boolean> {
    const current = this.#running.get(name);
    if (current === undefined) return false;
    if (requester) current.requester ??= requester;
    current.controller.abort(new StopRequest(kind));
    await current.ended;
    return true;
  }

  /**
   * Moves a job that nothing works on, unless it was taken up meanwhile.
   * @param job As it was found.
   * @throws LuthierError DRAINING where the server ends
   */
  async #moveResting({ name, state }: TrainingJob, to: JobState, requester?: Requester): Promise<void> {
    try {
      await this.#options.store.move(name, to, null, state, { requester });
    } catch (error) {
      if (!isReason(error, 'INVALID_STATE')) throw error;
      if (this.#closing.signal.aborted)
        throw new LuthierError('DRAINING', 'the server ends; repeat it with the next one');
      return;
    }
    if (to === JOB_STATE_CANCELLED) await this.#forgetCheckpoints(name);
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
      if (this.#closing.signal.aborted) controller.abort(new StopRequest('close'));
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
      if (await finishSaved(log, rest.adapters, job)) return this.#forgetCheckpoints(job.name);
      await trainJob({ log, logger, ...rest }, job, signal);
    } catch (thrown) {
      const error = toLuthierError(thrown);
      const stop = stopRequestOf(signal);
      if (stop !== null && isStopped(stop, thrown, error)) {
        logger.info({ job: job.name, kind: stop.kind }, 'job stopped');
        return this.#endStopped(log, job.name, stop);
      }
      // Only its last events were not stored, as where the disk was full: it is no failure.
      if (this.#options.adapters.has(job.name)) return this.#endSaved(log, job.name);
      if (error.reason === 'INTERNAL') logger.error({ job: job.name, err: error.cause }, 'job failed');
      else logger.info({ job: job.name, reason: error.reason }, 'job ended');
      if (error.reason === 'CANCELLED') return this.#end(log, job.name, JOB_STATE_CANCELLED, null);
      return this.#end(log, job.name, JOB_STATE_FAILED, error);
    }
    await this.#end(log, job.name, JOB_STATE_SUCCEEDED, null);
    logger.info({ job: job.name }, 'job succeeded');
  }

  #endStopped(log: EventLog, name: string, { kind }: StopRequest): Promise<void> {
    if (kind === 'cancel') return this.#end(log, name, JOB_STATE_CANCELLED, null);
    if (kind === 'pause') return this.#end(log, name, JOB_STATE_PAUSED, null);
    return this.#end(log, name, JOB_STATE_QUEUED, STOPPED);
  }

  /** Stores how a job ended or stopped. */
  async #end(log: EventLog, name: string, to: JobState, cause: FailureCause | null): Promise<void> {
    const failure = cause && { reason: cause.reason, message: cause.message };
    const asked = to === JOB_STATE_CANCELLED || to === JOB_STATE_PAUSED;
    const requester = asked ? this.#running.get(name)?.requester : undefined;
    const stored = await this.#untilStored('the end of a job could not be stored', { job: name }, async () => {
      await log.move(name, to, failure, undefined, { requester });
      return true;
    });
    if (stored && (to === JOB_STATE_SUCCEEDED || to === JOB_STATE_CANCELLED)) await this.#forgetCheckpoints(name);
  }

  /** Stores that a job whose adapter is stored has succeeded. */
  async #endSaved(log: EventLog, name: string): Promise<void> {
    const { store, adapters } = this.#options;
    const stored = await this.#untilStored('the end of a job could not be stored', { job: name }, async () =>
      finishSaved(log, adapters, await store.get(name)),
    );
    if (stored) await this.#forgetCheckpoints(name);
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

  /** Deletes what a job that is over does not need; what cannot be deleted is left to the next server. */
  async #forgetCheckpoints(name: string): Promise<void> {
    const { checkpoints, logger } = this.#options;
    await checkpoints.remove(name).catch((error: unknown) => {
      logger.warn({ job: name, err: error }, 'checkpoints were not deleted');
    });
  }
}
