/** The state machine of a training job. Knows nothing of stores or engines. */
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState } from '../gen/luthier/v1/training_service.ts';

const { JOB_STATE_UNSPECIFIED, JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_LOADING } = JobState;
const { JOB_STATE_RUNNING, JOB_STATE_PAUSED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED } = JobState;

/** Where a job that is being worked on goes when it is paused, or when its server ends. */
const STOPPED = [JOB_STATE_PAUSED, JOB_STATE_QUEUED];

/** Where a job can go from where it is. What is not listed has ended. */
const NEXT: ReadonlyMap<JobState, readonly JobState[]> = new Map([
  [JOB_STATE_UNSPECIFIED, [JOB_STATE_QUEUED]],
  [JOB_STATE_QUEUED, [JOB_STATE_VALIDATING, JOB_STATE_PAUSED, JOB_STATE_FAILED, JOB_STATE_CANCELLED]],
  // To SUCCEEDED where the adapter of a job that was cut off is found.
  [JOB_STATE_VALIDATING, [JOB_STATE_LOADING, ...STOPPED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED]],
  [JOB_STATE_LOADING, [JOB_STATE_RUNNING, ...STOPPED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED]],
  [JOB_STATE_RUNNING, [...STOPPED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED]],
  [JOB_STATE_PAUSED, [JOB_STATE_QUEUED, JOB_STATE_FAILED, JOB_STATE_CANCELLED]],
  // Where it has a checkpoint.
  [JOB_STATE_FAILED, [JOB_STATE_QUEUED]],
]);

/** The states of jobs that have ended; of these only a FAILED one may go on, where somebody resumes it. */
export const ENDED: readonly JobState[] = [JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED];

/** True once nothing more happens to a job by itself. */
export const hasEnded = (state: JobState): boolean => ENDED.includes(state);

/** The states in which a runner works on a job. */
const WORKED_ON: readonly JobState[] = [JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING];

/** True while a runner works on a job. */
export const isWorkedOn = (state: JobState): boolean => WORKED_ON.includes(state);

const LABELS = new Map<JobState, string>(
  Object.entries(JobState).map(([name, state]) => [state, name.replace('JOB_STATE_', '')]),
);

/** A state as messages name it: `RUNNING`. */
export const label = (state: JobState): string => LABELS.get(state) ?? String(state);

/** @throws LuthierError INVALID_STATE where a job has not ended */
export function checkEnded(name: string, found: JobState): void {
  if (hasEnded(found)) return;
  const expected = ENDED.map(label).join(', ');
  const message = `${name} is ${label(found)}; expected ${expected}: wait until it ends, or cancel it first`;
  throw new LuthierError('INVALID_STATE', message, { resource: { type: 'training job', name } });
}

/** INVALID_STATE for a job that is elsewhere than expected. @param expected For people. */
export function stateRefusal(
  { name, state }: { readonly name: string; readonly state: JobState },
  expected: string,
): LuthierError {
  const message = `${name} is ${label(state)}; expected ${expected}`;
  return new LuthierError('INVALID_STATE', message, { resource: { type: 'training job', name } });
}

/** @throws LuthierError INVALID_STATE where a job is not in the expected state */
export function checkState(name: string, found: JobState, expected: JobState): void {
  if (found === expected) return;
  throw new LuthierError('INVALID_STATE', `${name} is ${label(found)}; expected ${label(expected)}`);
}

/** @throws LuthierError INVALID_STATE where a job in `from` cannot go to `to` */
export function checkTransition(name: string, from: JobState, to: JobState): void {
  const next = NEXT.get(from) ?? [];
  if (next.includes(to)) return;
  const expected = next.length === 0 ? 'nothing follows' : `expected ${next.map(label).join(', ')}`;
  throw new LuthierError('INVALID_STATE', `${name} is ${label(from)}: ${expected}; found ${label(to)}`);
}
