import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { afterEach, expect, test } from 'vitest';
import { TrainingServiceService } from '../../typescript/src/gen/luthier/v1/training_service.ts';
import {
  type CancelTrainingJobRequest,
  CancelTrainingJobResponse,
  JobState,
  LuthierClient,
  TrainingEvent,
  type WatchTrainingJobRequest,
  type WatchTrainingJobResponse,
} from '../../typescript/src/index.ts';
import { eventsOf, scriptedServer } from '../../typescript/src/testing/scripted-server.ts';
import { followJob } from './follow-job.ts';
import { capturedIo } from './testing/captured-io.ts';

const JOB = 'trainingJobs/t';

const ended = (sequence: number, to: JobState): TrainingEvent =>
  TrainingEvent.create({ sequence, job: JOB, event: { $case: 'stateChange', value: { to } } });

let watched: ServerWritableStream<WatchTrainingJobRequest, WatchTrainingJobResponse> | null = null;
const cancelled: string[] = [];

/** Sends one event and waits; a cancelled job gets its last event. */
const methods = {
  watchTrainingJob: (call: ServerWritableStream<WatchTrainingJobRequest, WatchTrainingJobResponse>) => {
    watched = call;
    call.write({ event: eventsOf(JOB, 3)[0] });
  },
  cancelTrainingJob: (call: ServerUnaryCall<CancelTrainingJobRequest, object>, done: sendUnaryData<object>) => {
    cancelled.push(call.request.name);
    done(null, CancelTrainingJobResponse.create({ job: { name: JOB } }));
    watched?.write({ event: ended(2, JobState.JOB_STATE_CANCELLED) });
    watched?.end();
  },
};

afterEach(() => {
  watched = null;
  cancelled.length = 0;
});

/** Follows the job; each text that appears on a stream is answered with an interrupt, in turn. */
async function follow(embedded: boolean, interrupts: readonly ['out' | 'err', string][]) {
  await using server = await scriptedServer(TrainingServiceService, methods);
  await using client = new LuthierClient({ address: server.address });
  const io = capturedIo();
  const session = { client, io, json: false, embedded, reconnect: '--server there:1' };
  const outcome = followJob(session, (options) => client.watchTrainingJob(JOB, options));
  for (const [stream, text] of interrupts) {
    await expect.poll(() => io[stream]()).toContain(text);
    process.emit('SIGINT');
  }
  return { outcome: await outcome, io };
}

test('Ctrl-C detaches from a server and says how to come back', async () => {
  const { outcome, io } = await follow(false, [['out', 'step 1/']]);
  expect(outcome).toEqual({ job: JOB, state: null, exitCode: 130 });
  expect(io.err()).toContain(`Re-attach: luthier jobs watch ${JOB} --after 1 --server there:1`);
  expect(cancelled).toEqual([]);
});

test('in the same process the first Ctrl-C asks and the second cancels the job', async () => {
  const { outcome, io } = await follow(true, [
    ['out', 'step 1/'],
    ['err', 'Ctrl-C again cancels'],
  ]);
  expect(outcome).toEqual({ job: JOB, state: JobState.JOB_STATE_CANCELLED, exitCode: 31 });
  expect(cancelled).toEqual([JOB]);
  expect(io.out()).toContain(`cancelled  ${JOB}`);
});

test('a failed job is not a success', async () => {
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: ServerWritableStream<WatchTrainingJobRequest, WatchTrainingJobResponse>) => {
      call.write({ event: ended(1, JobState.JOB_STATE_FAILED) });
      call.end();
    },
  });
  await using client = new LuthierClient({ address: server.address });
  const session = { client, io: capturedIo(), json: true, embedded: false, reconnect: '' };
  const outcome = await followJob(session, (options) => client.watchTrainingJob(JOB, options));
  expect(outcome.exitCode).toBe(30);
});
