import type { TrainingJob } from '../gen/luthier/v1/training_service.ts';
import { JobState } from '../gen/luthier/v1/training_service.ts';
import { hasEnded } from './job-state.ts';
import type { EventBody } from './job-store.ts';

/** What a job becomes by an event. */
export function applyEvent(job: TrainingJob, event: EventBody, sequence: number, time: Date): TrainingJob {
  const next = { ...job, lastSequence: sequence };
  switch (event.$case) {
    case 'stateChange': {
      const { from, to, failure } = event.value;
      next.state = to;
      if (failure) next.failure = failure;
      if (from === JobState.JOB_STATE_QUEUED && !hasEnded(to)) next.startTime = time;
      if (hasEnded(to)) next.endTime = time;
      return next;
    }
    case 'step':
      return { ...next, lastStep: event.value };
    case 'evaluation':
      if (event.value.best) next.bestEvaluation = event.value;
      return { ...next, lastEvaluation: event.value };
    case 'adapterSaved':
      return { ...next, adapter: event.value.adapter };
    default:
      return next;
  }
}
