import { JobState, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { EventLog } from './job-store.ts';

/**
 * How long earlier attempts of a job trained, milliseconds: from each RUNNING to the last event before what followed, so that neither pauses nor
 * the time in which no server ran count. By the times of the events: where the clock was set forth meanwhile, that counts, too.
 * @param job As it was when it was taken up.
 */
export async function trainingTime(
  log: Pick<EventLog, 'watch'>,
  { name, lastSequence }: Pick<TrainingJob, 'name' | 'lastSequence'>,
  signal: AbortSignal,
): Promise<number> {
  let [total, last] = [0, 0];
  let begun: number | null = null;
  for await (const { sequence, time, event } of log.watch(name, 0, signal)) {
    const now = time?.getTime() ?? last;
    if (event?.$case === 'stateChange') {
      if (begun !== null) total += last - begun;
      begun = event.value.to === JobState.JOB_STATE_RUNNING ? now : null;
    }
    last = now;
    // What comes from now on is the next attempt's.
    if (sequence >= lastSequence) break;
  }
  return begun === null ? total : total + last - begun;
}
