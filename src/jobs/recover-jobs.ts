/** What a server does with the jobs that an earlier one left. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { INTERRUPTED, INTERRUPTED_TOO_OFTEN, isInterruptedTooOften } from './interruptions.ts';
import type { EventLog, JobStore } from './job-store.ts';
import { adapterSaved, keptStep } from './train-job.ts';

export interface RecoverJobsDependencies {
  readonly store: JobStore & EventLog;
  readonly adapters: Pick<ManagedAdapterStore, 'has' | 'get'>;
  readonly checkpoints: CheckpointStore;
  readonly logger: Pick<Logger, 'warn'>;
}

/** States that a job stays in while no server runs. */
const RESTING: readonly JobState[] = [JobState.JOB_STATE_QUEUED, JobState.JOB_STATE_PAUSED];

/** States after which a job never goes on. */
const OVER: readonly JobState[] = [JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_CANCELLED];

/**
 * Ends a job whose adapter is stored already: only its last events were lost.
 * @param job That is worked on.
 * @returns False where there is no adapter of it.
 */
export async function finishSaved(
  { store, adapters }: Pick<RecoverJobsDependencies, 'store' | 'adapters'>,
  job: TrainingJob,
): Promise<boolean> {
  if (!adapters.has(job.name)) return false;
  if (job.adapter === '') await store.append(job.name, adapterSaved(adapters.get(job.name), keptStep(job)));
  await store.move(job.name, JobState.JOB_STATE_SUCCEEDED);
  return true;
}

/**
 * Puts jobs that were worked on back into the queue, where they keep their places, unless servers die of them, and deletes
 * checkpoints that nothing needs.
 */
export async function recoverJobs(dependencies: RecoverJobsDependencies): Promise<void> {
  const { store, checkpoints, logger } = dependencies;
  for (const job of await store.unfinished()) {
    if (RESTING.includes(job.state) || (await finishSaved(dependencies, job))) continue;
    if (await isInterruptedTooOften(store, job)) {
      await store.move(job.name, JobState.JOB_STATE_FAILED, INTERRUPTED_TOO_OFTEN);
      logger.warn({ job: job.name }, 'job was interrupted too often');
      continue;
    }
    await store.move(job.name, JobState.JOB_STATE_QUEUED, INTERRUPTED);
    logger.warn({ job: job.name }, 'job was interrupted; it goes on');
  }
  await checkpoints.removeLeftovers(async (name) => {
    const job = await store.get(name).catch(() => null);
    return job !== null && !OVER.includes(job.state);
  });
}
