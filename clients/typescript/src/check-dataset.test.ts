import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerDuplexStream } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { LuthierClient } from './client.ts';
import {
  type CheckDatasetRequest,
  CheckDatasetResponse,
  DatasetServiceService,
} from './gen/luthier/v1/dataset_service.ts';
import { Status } from './status.ts';
import { scriptedServer, serviceError } from './testing/scripted-server.ts';

type CheckCall = ServerDuplexStream<CheckDatasetRequest, CheckDatasetResponse>;

const progress = (examples: number) =>
  CheckDatasetResponse.fromPartial({ event: { $case: 'progress', value: { examples } } });
const report = (examples: number) =>
  CheckDatasetResponse.fromPartial({ event: { $case: 'report', value: { examples } } });

test('sends the header and the file, and yields what comes meanwhile', async () => {
  let received = '';
  let model: string | undefined;
  await using server = await scriptedServer(DatasetServiceService, {
    checkDataset: async (call: CheckCall) => {
      for await (const { part } of call as AsyncIterable<CheckDatasetRequest>) {
        if (part?.$case === 'header') model = part.value.validation?.model;
        if (part?.$case === 'chunk') {
          received += part.value.toString();
          call.write(progress(received.length));
        }
      }
      call.write(report(7));
      call.end();
    },
  });
  await using client = new LuthierClient({ address: server.address });
  const events: string[] = [];
  for await (const { event } of client.checkDataset({ validation: { model: 'models/m' } }, ['ab', 'cd'])) {
    events.push(`${event?.$case} ${event?.value.examples}`);
  }
  expect(events).toEqual(['progress 2', 'progress 4', 'report 7']);
  expect({ received, model }).toEqual({ received: 'abcd', model: 'models/m' });
});

test('a refusal ends an endless file, and a file that fails ends the call', async () => {
  const cancelled = Promise.withResolvers<void>();
  await using server = await scriptedServer(DatasetServiceService, {
    checkDataset: (call: CheckCall) => {
      call.on('data', ({ part }: CheckDatasetRequest) => {
        if (part?.$case !== 'header') return;
        if (part.value.validation?.model === 'models/none')
          call.emit('error', serviceError(Status.NOT_FOUND, 'no such model'));
        else call.on('cancelled', () => cancelled.resolve());
      });
    },
  });
  await using client = new LuthierClient({ address: server.address });
  async function* endless() {
    for (;;) {
      yield 'x'.repeat(1000);
      await sleep(1);
    }
  }
  const refused = client.checkDataset({ validation: { model: 'models/none' } }, endless());
  await expect(refused.next()).rejects.toMatchObject({ status: 'NOT_FOUND' });
  async function* failing() {
    yield 'half a line';
    await sleep(20);
    throw new Error('disk gone');
  }
  await expect(client.checkDataset({ validation: { model: 'm' } }, failing()).next()).rejects.toThrow('disk gone');
  await cancelled.promise;
});

test('leaving the loop cancels the check', async () => {
  const cancelled = Promise.withResolvers<void>();
  await using server = await scriptedServer(DatasetServiceService, {
    checkDataset: (call: CheckCall) => {
      call.on('cancelled', () => cancelled.resolve());
      call.on('data', () => undefined);
      call.write(progress(1));
    },
  });
  await using client = new LuthierClient({ address: server.address });
  for await (const { event } of client.checkDataset({ validation: { dataset: 'datasets/d' } })) {
    expect(event?.$case).toBe('progress');
    break;
  }
  await cancelled.promise;
});
