import type { ServerWritableStream } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { LuthierClient } from './client.ts';
import { LuthierError } from './error.ts';
import { ErrorInfo } from './gen/google/rpc/error_details.ts';
import {
  TrainingServiceService,
  type TrainRequest,
  type TrainResponse,
  type WatchTrainingJobRequest,
  type WatchTrainingJobResponse,
} from './gen/luthier/v1/training_service.ts';
import { Status } from './status.ts';
import { between, eventsOf, scriptedServer, serviceError } from './testing/scripted-server.ts';

type TrainCall = ServerWritableStream<TrainRequest, TrainResponse>;
type WatchCall = ServerWritableStream<WatchTrainingJobRequest, WatchTrainingJobResponse>;

const fast = { initialDelayMs: 1, maxDelayMs: 5 };
async function collect<T>(stream: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const each of stream) all.push(each);
  return all;
}

const JOB = 'trainingJobs/t';

test('a stream that is lost again and again gives every event once, in order', async () => {
  const events = eventsOf(JOB, 300);
  const created: TrainRequest[] = [];
  const afters: number[] = [];
  const serve = (call: TrainCall | WatchCall) => {
    afters.push(call.request.afterSequence);
    const rest = events.slice(call.request.afterSequence);
    const until = afters.length % 4 === 0 ? rest.length : between(0, 20);
    for (const event of rest.slice(0, until)) call.write({ event });
    if (until >= rest.length && afters.length > 20) call.end();
    else call.emit('error', serviceError(Status.UNAVAILABLE, 'the server is draining'));
  };
  await using server = await scriptedServer(TrainingServiceService, {
    train: (call: TrainCall) => {
      created.push(call.request);
      // The first answers are lost before any event arrives.
      if (created.length < 3) call.emit('error', serviceError(Status.UNAVAILABLE, 'starting'));
      else serve(call);
    },
    watchTrainingJob: (call: WatchCall) => {
      expect(call.request.name).toBe(JOB);
      serve(call);
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast });
  const seen: number[] = [];
  const lost: number[] = [];
  const onReattach = (error: LuthierError, after: number) => {
    expect(error.status).toBe('UNAVAILABLE');
    lost.push(after);
  };
  // A stream that dies may take unread events with it, so progress is not certain in each round.
  const retry = { ...fast, maxAttempts: 1000 };
  for await (const event of client.train({ model: 'models/m', dataset: 'datasets/d' }, { onReattach, retry })) {
    seen.push(event.sequence);
  }
  expect(seen).toEqual(events.map((event) => event.sequence));
  expect(lost.length).toBeGreaterThan(3);
  expect(created.length).toBeGreaterThanOrEqual(3);
  // One request, word for word, until the job has a name: it is created once.
  for (const request of created) expect(request).toEqual(created[0]);
  expect(created[0]?.requestId).toMatch(/^[0-9a-f-]{36}$/);
  expect(afters.slice(1)).toEqual(lost.slice(-(afters.length - 1)));
});

test('events that a server repeats are dropped; a gap is an error', async () => {
  const events = eventsOf(JOB, 6);
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: WatchCall) => {
      const order = call.request.name === JOB ? [1, 2, 2, 1, 3, 4, 5, 6] : [1, 2, 4];
      for (const sequence of order) call.write({ event: events[sequence - 1] });
      call.end();
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast });
  const seen: number[] = [];
  for await (const event of client.watchTrainingJob(JOB)) seen.push(event.sequence);
  expect(seen).toEqual([1, 2, 3, 4, 5, 6]);
  const gap = collect(client.watchTrainingJob('trainingJobs/gap'));
  await expect(gap).rejects.toMatchObject({ status: 'DATA_LOSS', reason: 'EVENT_GAP' });
});

test('a stream that was read too slowly is opened again after its last event; merged steps are no gap', async () => {
  const events = eventsOf(JOB, 6);
  const requests: WatchTrainingJobRequest[] = [];
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: WatchCall) => {
      requests.push(call.request);
      if (requests.length > 1) {
        for (const sequence of [5, 6]) call.write({ event: events[sequence - 1] });
        return void call.end();
      }
      for (const sequence of [1, 3]) call.write({ event: events[sequence - 1] });
      // A heartbeat.
      call.write({ event: undefined });
      const metadata = { after_sequence: '3' };
      const info = ErrorInfo.encode({ reason: 'SLOW_CONSUMER', domain: 'luthier.v1', metadata }).finish();
      const detail = { typeUrl: 'type.googleapis.com/google.rpc.ErrorInfo', value: Buffer.from(info) };
      const status = { code: Status.ABORTED, message: 'nothing was read', details: [detail] };
      call.emit('error', serviceError(Status.ABORTED, 'nothing was read', status));
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast });
  const seen = await collect(client.watchTrainingJob(JOB, { coalesceSteps: true, heartbeatSeconds: 30 }));
  expect(seen.map(({ sequence }) => sequence)).toEqual([1, 3, 5, 6]);
  const asked = { name: JOB, coalesceSteps: true, heartbeatSeconds: 30 };
  expect(requests).toEqual([
    { ...asked, afterSequence: 0 },
    { ...asked, afterSequence: 3 },
  ]);
});

test('a server that is started again on its port is found again', async () => {
  const events = eventsOf(JOB, 10);
  const methods = (until: number) => ({
    watchTrainingJob: (call: WatchCall) => {
      for (const event of events.slice(call.request.afterSequence, until)) call.write({ event });
      if (until === events.length) call.end();
    },
  });
  const first = await scriptedServer(TrainingServiceService, methods(4));
  await using client = new LuthierClient({ address: first.address, retry: { maxAttempts: 50, maxDelayMs: 100 } });
  const seen: number[] = [];
  for await (const event of client.watchTrainingJob(JOB)) {
    seen.push(event.sequence);
    if (event.sequence !== 4) continue;
    await first[Symbol.asyncDispose]();
    const port = Number(first.address.split(':')[1]);
    setTimeout(() => void scriptedServer(TrainingServiceService, methods(10), port), 200);
  }
  expect(seen).toEqual(events.map((event) => event.sequence));
});

test('leaving the loop cancels the stream; aborting ends it as CANCELLED', async () => {
  const cancelled = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  let calls = 0;
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: WatchCall) => {
      const mine = cancelled[calls++];
      call.on('cancelled', () => mine?.resolve());
      call.write({ event: eventsOf(JOB, 2)[0] });
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast });
  for await (const _ of client.watchTrainingJob(JOB)) break;
  await cancelled[0]?.promise;
  const controller = new AbortController();
  const watch = async () => {
    for await (const _ of client.watchTrainingJob(JOB, { signal: controller.signal })) controller.abort();
  };
  await expect(watch()).rejects.toMatchObject({ status: 'CANCELLED' });
  await cancelled[1]?.promise;
  await expect(watch()).rejects.toMatchObject({ status: 'CANCELLED' });
  expect(calls).toBe(2);
});

test('repetition has an end, and only UNAVAILABLE is repeated', async () => {
  let calls = 0;
  let code: number = Status.UNAVAILABLE;
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: WatchCall) => {
      calls += 1;
      call.emit('error', serviceError(code, 'no'));
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: { ...fast, maxAttempts: 3 } });
  await expect(collect(client.watchTrainingJob(JOB))).rejects.toBeInstanceOf(LuthierError);
  expect(calls).toBe(4);
  code = Status.NOT_FOUND;
  await expect(collect(client.watchTrainingJob(JOB))).rejects.toMatchObject({ status: 'NOT_FOUND' });
  expect(calls).toBe(5);
});

test('closing the client ends a watched job with CANCELLED, and opens nothing again', async () => {
  let opened = 0;
  await using server = await scriptedServer(TrainingServiceService, {
    watchTrainingJob: (call: WatchCall) => {
      opened += 1;
      call.write({ event: eventsOf(JOB, 3)[0] });
    },
  });
  const client = new LuthierClient({ address: server.address, retry: fast });
  const watching = (async () => {
    for await (const _ of client.watchTrainingJob(JOB)) client.close();
  })();
  await expect(watching).rejects.toMatchObject({ status: 'CANCELLED' });
  await expect(client.getTrainingJob(JOB)).rejects.toMatchObject({ status: 'CANCELLED' });
  expect(opened).toBe(1);
});
