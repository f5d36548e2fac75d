import type { TrainingJob } from '../gen/luthier/v1/training_service.ts';
import { JobState } from '../gen/luthier/v1/training_service.ts';
import { hasEnded } from './job-state.ts';
import type { EventBody } from './job-store.ts';

/** What a job becomes by an event. */
export function applyEvent(job: TrainingJob, event: EventBody, sequence: number, time: Date): TrainingJob {
  const next = { ...job, lastSequence: sequence };
  switch (event.$case) {
    case 'stateChange': {
      const { to, failure } = event.value;
      next.state = to;
      next.failure = to === JobState.JOB_STATE_FAILED ? failure : undefined;
      if (to === JobState.JOB_STATE_VALIDATING) next.startTime ??= time;
      next.endTime = hasEnded(to) ? time : undefined;
      if (to === JobState.JOB_STATE_SUCCEEDED || to === JobState.JOB_STATE_CANCELLED) next.lastCheckpoint = undefined;
      return next;
    }
    case 'step':
      return { ...next, lastStep: event.value };
    case 'evaluation':
      if (event.value.best) next.bestEvaluation = event.value;
      return { ...next, lastEvaluation: event.value };
    case 'adapterSaved':
      return { ...next, adapter: event.value.adapter };
    case 'checkpointSaved':
      return { ...next, lastCheckpoint: event.value.checkpoint };
    case 'jobResumed':
      return { ...next, lastCheckpoint: event.value.checkpoint };
    default:
      return next;
  }
}
