/** The queue of one device: stored jobs, one after another, oldest first. Knows nothing of what training is. */
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { hasEnded, stateRefusal } from './job-state.ts';
import type { EventLog, FailureCause, JobStore } from './job-store.ts';
import { finishSaved, recoverJobs } from './recover-jobs.ts';
import { StopRequest, stopRequestOf } from './stop-request.ts';
import { type TrainJobDependencies, trainJob } from './train-job.ts';

export interface JobRunnerOptions extends Omit<TrainJobDependencies, 'log'> {
  readonly store: JobStore & EventLog;
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Told of every job that is taken up; must not throw. */
  readonly onTakenUp?: (name: string) => void;
}

/** The waits between attempts to store how a job ended, where the disk refuses. */
const FIRST_WAIT_MILLISECONDS = 1000;
const LONGEST_WAIT_MILLISECONDS = 60_000;

/** How long a server that ends waits for the running job's checkpoint. */
const CLOSE_MILLISECONDS = 60_000;

const { JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_PAUSED } = JobState;
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
  readonly name: string;
  readonly controller: AbortController;
  readonly ended: Promise<void>;
}

export class JobRunner {
  readonly #options: JobRunnerOptions;
  readonly #closing = new AbortController();
  #current: RunningJob | null = null;
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
    await recoverJobs(this.#options);
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
  async cancel(name: string): Promise<TrainingJob> {
    const { store } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (hasEnded(job.state)) return job;
      // A pause may have come before, and taken effect.
      if (await this.#stop(job.name, 'cancel')) continue;
      await this.#moveResting(job, JOB_STATE_CANCELLED);
    }
  }

  /**
   * Stops a job so that it can go on: a running one within one micro-step, once its checkpoint is on the disk. A paused one is left as it is.
   * @throws LuthierError JOB_NOT_FOUND; INVALID_STATE where it has ended
   */
  async pause(name: string): Promise<TrainingJob> {
    const { store } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (job.state === JOB_STATE_PAUSED) return job;
      if (hasEnded(job.state)) throw stateRefusal(job, 'a job that has not ended');
      if (await this.#stop(job.name, 'pause')) continue;
      await this.#moveResting(job, JOB_STATE_PAUSED);
    }
  }

  /**
   * Puts a paused job, or a failed one that has a checkpoint, back into the queue. One that waits or runs is left as it is.
   * @throws LuthierError JOB_NOT_FOUND; INVALID_STATE for any other
   */
  async resume(name: string): Promise<TrainingJob> {
    const { store, checkpoints } = this.#options;
    for (;;) {
      const job = await store.get(name);
      if (hasEnded(job.state)) {
        const canGoOn = job.state === JOB_STATE_FAILED && (await checkpoints.list(job.name)).length > 0;
        if (!canGoOn) throw stateRefusal(job, 'PAUSED, or FAILED with a checkpoint: create a new job instead');
      } else if (job.state !== JOB_STATE_PAUSED) return job;
      await this.#moveResting(job, JOB_STATE_QUEUED);
      this.wake();
    }
  }

  /**
   * Stops the running job behind its checkpoint and puts it back into the queue, which waits for the next server. A checkpoint that takes too long is
   * not waited for: the next server goes on from the one before. Idempotent.
   */
  async close(): Promise<void> {
    this.#closing.abort();
    this.#current?.controller.abort(new StopRequest('close'));
    const stopped = new AbortController();
    const late = sleep(CLOSE_MILLISECONDS, 'late', { ref: false, signal: stopped.signal }).catch(() => null);
    const outcome = await Promise.race([this.#working, late]);
    stopped.abort();
    if (outcome === 'late') this.#options.logger.warn('the running job did not stop in time');
  }

  /** Asks a job that runs here to stop and waits until it has. @returns False where it does not run here. */
  async #stop(name: string, kind: StopRequest['kind']): Promise<boolean> {
    const current = this.#current;
    if (current?.name !== name) return false;
    current.controller.abort(new StopRequest(kind));
    await current.ended;
    return true;
  }

  /**
   * Moves a job that nothing works on, unless it was taken up meanwhile.
   * @param job As it was found.
   * @throws LuthierError DRAINING where the server ends
   */
  async #moveResting({ name, state }: TrainingJob, to: JobState): Promise<void> {
    try {
      await this.#options.store.move(name, to, null, state);
    } catch (error) {
      if (!isReason(error, 'INVALID_STATE')) throw error;
      if (this.#closing.signal.aborted)
        throw new LuthierError('DRAINING', 'the server ends; repeat it with the next one');
      return;
    }
    if (to === JOB_STATE_CANCELLED) await this.#forgetCheckpoints(name);
  }

  async #takeUp(): Promise<void> {
    const { store } = this.#options;
    this.#wanted = false;
    for (;;) {
      const [next] = await store.queued();
      if (!next || this.#closing.signal.aborted) return;
      const controller = new AbortController();
      const ended = this.#run(next, controller.signal);
      this.#current = { name: next.name, controller, ended };
      await ended;
      this.#current = null;
    }
  }

  async #run(job: TrainingJob, signal: AbortSignal): Promise<void> {
    const { store, logger, onTakenUp, ...rest } = this.#options;
    try {
      await store.move(job.name, JOB_STATE_VALIDATING, null, JOB_STATE_QUEUED);
    } catch (error) {
      // Cancelled or paused in the last moment.
      if (isReason(error, 'INVALID_STATE')) return;
      return this.#end(job.name, JOB_STATE_FAILED, toLuthierError(error));
    }
    logger.info({ job: job.name }, 'job started');
    onTakenUp?.(job.name);
    try {
      if (await finishSaved(this.#options, job)) return this.#forgetCheckpoints(job.name);
      await trainJob({ log: store, logger, ...rest }, job, signal);
    } catch (thrown) {
      const error = toLuthierError(thrown);
      const stop = stopRequestOf(signal);
      if (stop !== null && isStopped(stop, thrown, error)) {
        logger.info({ job: job.name, kind: stop.kind }, 'job stopped');
        return this.#endStopped(job.name, stop);
      }
      // Only its last events were not stored, as where the disk was full: it is no failure.
      if (this.#options.adapters.has(job.name)) return this.#endSaved(job.name);
      if (error.reason === 'INTERNAL') logger.error({ job: job.name, err: error.cause }, 'job failed');
      else logger.info({ job: job.name, reason: error.reason }, 'job ended');
      if (error.reason === 'CANCELLED') return this.#end(job.name, JOB_STATE_CANCELLED, null);
      return this.#end(job.name, JOB_STATE_FAILED, error);
    }
    await this.#end(job.name, JOB_STATE_SUCCEEDED, null);
    logger.info({ job: job.name }, 'job succeeded');
  }

  #endStopped(name: string, { kind }: StopRequest): Promise<void> {
    if (kind === 'cancel') return this.#end(name, JOB_STATE_CANCELLED, null);
    return kind === 'pause' ? this.#end(name, JOB_STATE_PAUSED, null) : this.#end(name, JOB_STATE_QUEUED, STOPPED);
  }

  /** Stores how a job ended or stopped. */
  async #end(name: string, to: JobState, cause: FailureCause | null): Promise<void> {
    const failure = cause && { reason: cause.reason, message: cause.message };
    await this.#untilStored(name, async () => {
      await this.#options.store.move(name, to, failure);
      if (to === JOB_STATE_SUCCEEDED || to === JOB_STATE_CANCELLED) await this.#forgetCheckpoints(name);
    });
  }

  /** Stores that a job whose adapter is stored has succeeded. */
  async #endSaved(name: string): Promise<void> {
    await this.#untilStored(name, async () => {
      await finishSaved(this.#options, await this.#options.store.get(name));
      await this.#forgetCheckpoints(name);
    });
  }

  /** A full disk is waited for: no other job could be stored either. */
  async #untilStored(name: string, action: () => Promise<void>): Promise<void> {
    const { logger } = this.#options;
    for (let wait = FIRST_WAIT_MILLISECONDS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MILLISECONDS)) {
      try {
        return await action();
      } catch (error) {
        logger.error({ job: name, err: error, waitMilliseconds: wait }, 'the end of a job could not be stored');
        // The next server finds the job unfinished and ends it.
        if (this.#closing.signal.aborted) return;
        await sleep(wait, undefined, { signal: this.#closing.signal }).catch(() => {});
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
