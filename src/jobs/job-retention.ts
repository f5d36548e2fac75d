/** Deletes ended jobs that are too old or too many, beside what else happens. */
import { setImmediate } from 'node:timers/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import type { Reason } from '../errors/reasons.ts';
import type { Logger } from '../logging/logger.ts';
import { type DeleteJobDependencies, deleteJob } from './delete-job.ts';
import { ENDED } from './job-state.ts';
import type { JobStore, NumberedJob } from './job-store.ts';

export interface JobRetentionOptions extends DeleteJobDependencies {
  readonly store: JobStore;
  /** Ended jobs that are kept, the latest created ones; null: all. */
  readonly maxEndedJobs: number | null;
  /** Days that they are kept; null: for ever. */
  readonly maxEndedJobDays: number | null;
  readonly logger: Pick<Logger, 'info' | 'warn'>;
}

const INTERVAL_MILLISECONDS = 10 * 60_000;
const DAY_MILLISECONDS = 24 * 3600 * 1000;
const FASTER: readonly Reason[] = ['JOB_NOT_FOUND', 'INVALID_STATE'];
/** Jobs looked at at once. */
const PAGE = 100;

export class JobRetention {
  readonly #options: JobRetentionOptions;
  readonly #closing = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #passing: Promise<void> = Promise.resolve();

  constructor(options: JobRetentionOptions) {
    this.#options = options;
  }

  /** Finishes deletions that an earlier server began; then looks at the jobs now and every ten minutes, where anything limits them. */
  start(): void {
    const begin = (): void => {
      this.#passing = this.#passing.then(() => this.pass());
    };
    begin();
    const { maxEndedJobs, maxEndedJobDays } = this.#options;
    if (maxEndedJobs !== null || maxEndedJobDays !== null) this.#timer = setInterval(begin, INTERVAL_MILLISECONDS);
  }

  /** Ends with the job that is being deleted. Idempotent. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    this.#closing.abort();
    await this.#passing;
  }

  /** Looks at every ended job once. What goes wrong is logged, and tried again the next time. */
  async pass(): Promise<void> {
    const { store, logger, maxEndedJobs, maxEndedJobDays } = this.#options;
    try {
      await store.finishDeletions();
      if (maxEndedJobs === null && maxEndedJobDays === null) return;
      const oldest = Date.now() - (maxEndedJobDays ?? 0) * DAY_MILLISECONDS;
      let [seen, deleted] = [0, 0];
      for await (const { job } of this.#ended()) {
        const tooMany = maxEndedJobs !== null && seen >= maxEndedJobs;
        const tooOld = maxEndedJobDays !== null && (job.endTime?.getTime() ?? 0) < oldest;
        seen += 1;
        if (!tooMany && !tooOld) continue;
        await this.#delete(job.name);
        deleted += 1;
      }
      if (deleted > 0) logger.info({ jobs: deleted }, 'ended jobs were deleted');
    } catch (error) {
      logger.warn({ err: error }, 'ended jobs could not be deleted');
    }
  }

  /** Newest first, with room for others between two jobs. */
  async *#ended(): AsyncGenerator<NumberedJob, void, undefined> {
    for (let before: number | null = null; ; ) {
      const page: readonly NumberedJob[] = await this.#options.store.list(before, PAGE, { states: ENDED });
      for (const numbered of page) {
        await setImmediate();
        if (this.#closing.signal.aborted) return;
        yield numbered;
      }
      before = page.at(-1)?.number ?? null;
      if (before === null) return;
    }
  }

  async #delete(name: string): Promise<void> {
    try {
      await deleteJob(this.#options, name, { reason: 'RETENTION' });
    } catch (error) {
      // A client was faster, and deleted or resumed it.
      if (!(error instanceof LuthierError && FASTER.includes(error.reason))) throw error;
    }
  }
}
