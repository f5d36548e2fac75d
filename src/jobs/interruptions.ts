/** How often servers died over a job: one that brings its server down must not do so forever. */
import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { EventLog, FailureCause } from './job-store.ts';
import { eventsOf } from './logged-events.ts';

/** Deaths in a row, without a step in between, after which a job is not taken up by itself. */
const MOST = 3;

const REASON = 'INTERRUPTED';

/** What a transition says where a server died while it worked on the job. */
export const INTERRUPTED: FailureCause = {
  reason: REASON,
  message: 'the server ended while the job ran; it goes on from its checkpoint',
};

/** What a job fails with that was interrupted too often. */
export const INTERRUPTED_TOO_OFTEN: FailureCause = {
  reason: REASON,
  message: `servers ended ${MOST} times in a row while the job ran, without a new step; find out why, then resume it`,
};

/**
 * Whether the present death is one too many.
 * @param job In a state of being worked on; nothing works on it.
 */
export async function isInterruptedTooOften(log: Pick<EventLog, 'watch'>, job: TrainingJob): Promise<boolean> {
  let deaths = 1;
  for await (const event of eventsOf(log, job, new AbortController().signal)) {
    if (event.$case === 'step') deaths = 1;
    if (event.$case !== 'stateChange' || event.value.to !== JobState.JOB_STATE_QUEUED) continue;
    // Whoever resumed it wants it to be tried again.
    deaths = event.value.failure?.reason === REASON ? deaths + 1 : 1;
  }
  return deaths >= MOST;
}
