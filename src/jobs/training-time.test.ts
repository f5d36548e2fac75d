import { expect, test } from 'vitest';
import { JobState, TrainingEvent } from '../gen/luthier/v1/training_service.ts';
import { trainingTime } from './training-time.ts';

const never = new AbortController().signal;
const { JOB_STATE_QUEUED, JOB_STATE_LOADING, JOB_STATE_RUNNING, JOB_STATE_PAUSED } = JobState;

/** A second of the log: a state that was gone to, or a warning. */
type Moment = readonly [second: number, to: JobState | null];

async function seconds(moments: readonly Moment[], lastSequence = moments.length): Promise<number> {
  const watch = async function* () {
    for (const [index, [second, to]] of moments.entries()) {
      const event: TrainingEvent['event'] =
        to === null
          ? { $case: 'warning' as const, value: { reason: 'TEST', message: '' } }
          : { $case: 'stateChange' as const, value: { from: 0, to, failure: undefined } };
      yield TrainingEvent.fromPartial({ sequence: index + 1, time: new Date(second * 1000), event });
    }
  };
  return (await trainingTime({ watch }, { name: 'trainingJobs/t', lastSequence }, never)) / 1000;
}

test('only what a job trained counts', async () => {
  const paused: Moment[] = [
    [0, JOB_STATE_QUEUED],
    [50, JOB_STATE_LOADING],
    [100, JOB_STATE_RUNNING],
    [103, null],
    [107, null],
    [107, JOB_STATE_PAUSED],
    [900, JOB_STATE_QUEUED],
    [950, JOB_STATE_LOADING],
  ];
  expect(await seconds(paused)).toBe(7);
  // The server of the second attempt died after its last event, and the next one found the job an hour later.
  const died: Moment[] = [...paused, [1000, JOB_STATE_RUNNING], [1005, null], [4600, JOB_STATE_QUEUED]];
  expect(await seconds(died)).toBe(12);
  expect(await seconds([...died, [5000, JOB_STATE_RUNNING], [5100, null]], died.length)).toBe(12);
});

test('a job that never ran has trained for no time', async () => {
  expect(await seconds([])).toBe(0);
  expect(await seconds([[0, JOB_STATE_QUEUED]])).toBe(0);
});
