/** What a server does with the jobs that an earlier one left. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { heldLog, LEASE_MILLISECONDS } from './held-log.ts';
import { INTERRUPTED, INTERRUPTED_TOO_OFTEN, isInterruptedTooOften } from './interruptions.ts';
import { isWorkedOn } from './job-state.ts';
import type { EventLog, JobLeases, JobStore } from './job-store.ts';
import { adapterSaved, keptStep } from './train-job.ts';

export interface RecoverJobsDependencies {
  readonly store: JobStore & EventLog & JobLeases;
  readonly adapters: Pick<ManagedAdapterStore, 'has' | 'get'>;
  readonly checkpoints: CheckpointStore;
  readonly logger: Pick<Logger, 'warn'>;
}

/** States after which a job never goes on. */
const OVER: readonly JobState[] = [JobState.JOB_STATE_SUCCEEDED, JobState.JOB_STATE_CANCELLED];

/**
 * Ends a job whose adapter is stored already: only its last events were lost.
 * @param job That is worked on.
 * @returns False where there is no adapter of it.
 */
export async function finishSaved(
  log: Pick<EventLog, 'append' | 'move'>,
  adapters: RecoverJobsDependencies['adapters'],
  job: TrainingJob,
): Promise<boolean> {
  if (!adapters.has(job.name)) return false;
  if (job.adapter === '') await log.append(job.name, adapterSaved(adapters.get(job.name), keptStep(job)));
  await log.move(job.name, JobState.JOB_STATE_SUCCEEDED);
  return true;
}

/**
 * Puts jobs that were worked on back into the queue, where they keep their places, unless servers die of them, and deletes
 * checkpoints that nothing needs.
 * @param runner Whose hands they go through.
 */
export async function recoverJobs(dependencies: RecoverJobsDependencies, runner: string): Promise<void> {
  const { store, adapters, checkpoints, logger } = dependencies;
  for (const job of await store.unfinished()) {
    if (!isWorkedOn(job.state)) continue;
    const lease = await store.takeOver(job.name, runner, LEASE_MILLISECONDS);
    if (lease === null) continue;
    const log = heldLog(store, lease);
    if (await finishSaved(log, adapters, job)) continue;
    if (await isInterruptedTooOften(log, job)) {
      await log.move(job.name, JobState.JOB_STATE_FAILED, INTERRUPTED_TOO_OFTEN);
      logger.warn({ job: job.name }, 'job was interrupted too often');
      continue;
    }
    await log.move(job.name, JobState.JOB_STATE_QUEUED, INTERRUPTED);
    logger.warn({ job: job.name }, 'job was interrupted; it goes on');
  }
  await checkpoints.removeLeftovers(async (name) => {
    const job = await store.get(name).catch(() => null);
    return job !== null && !OVER.includes(job.state);
  });
}
