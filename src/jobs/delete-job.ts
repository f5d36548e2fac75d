import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import type { MetricFiles } from '../metrics/metric-files.ts';
import type { Commit } from '../store/commit.ts';
import type { Actor, JobStore } from './job-store.ts';

export interface DeleteJobDependencies {
  readonly store: Pick<JobStore, 'delete'>;
  /** Null: none are written. */
  readonly metricFiles: Pick<MetricFiles, 'remove'> | null;
  readonly checkpoints: Pick<CheckpointStore, 'remove'>;
}

/** Deletes a job that has ended, with its events, metrics and checkpoints; its adapter stays. @throws LuthierError JOB_NOT_FOUND, INVALID_STATE */
export async function deleteJob(
  { store, metricFiles, checkpoints }: DeleteJobDependencies,
  name: string,
  actor: Actor,
  commit?: Commit,
): Promise<void> {
  await store.delete(name, actor, commit);
  await metricFiles?.remove(name);
  await checkpoints.remove(name);
}
