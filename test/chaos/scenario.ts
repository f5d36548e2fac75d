/**
 * What a user does: data up, an adapter trained, watched, exported and fetched, and other things made and deleted meanwhile. It is played again
 * from its start after every cut: what was answered is not asked again, the rest is, under the same request ids.
 */
import { hash } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Method } from '../../clients/typescript/src/call.ts';
import { AdapterServiceService } from '../../clients/typescript/src/gen/luthier/v1/adapter_service.ts';
import { DatasetServiceService } from '../../clients/typescript/src/gen/luthier/v1/dataset_service.ts';
import { TrainingServiceService } from '../../clients/typescript/src/gen/luthier/v1/training_service.ts';
import { isTerminal, JobState, LuthierError, type TrainingJob } from '../../clients/typescript/src/index.ts';
import { conversations, spec } from '../e2e/support/examples.ts';
import { TINY_ADAPTER } from '../e2e/support/server-process.ts';
import type { Connection } from './live.ts';
import type { World } from './world.ts';

const EXAMPLES = 40;

/** Small, but with everything that a resumed run must repeat: order, dropout, packing, accumulation, evaluations. */
const JOB = {
  perDeviceTrainBatchSize: 1,
  gradientAccumulationSteps: 2,
  lora: { r: 4, loraAlpha: 8, loraDropout: 0.1 },
  packing: true,
  maxSeqLength: 256,
  maxSteps: 30,
  evalStrategy: 'steps',
  evalSteps: 7,
  seed: 3,
  saveStrategy: 'steps',
  saveSteps: 4,
};

/** A request id for a text. */
const requestId = (text: string): string => `c4a05000-0000-4000-8000-${hash('sha256', text, 'hex').slice(0, 12)}`;

/** A text in pieces, as a slow sender's. */
async function* slowly(text: string, pieces: number) {
  const size = Math.ceil(text.length / pieces);
  for (let start = 0; start < text.length; start += size) {
    yield text.slice(start, start + size);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const isReason = (error: unknown, reason: string): boolean => error instanceof LuthierError && error.reason === reason;

type Deletion<Response> = Method<{ readonly name: string; readonly requestId: string }, Response>;

export interface Play {
  /** Why a job may have failed, so that its user makes it again under another request id. */
  readonly mayFail?: readonly string[];
}

/** Plays one story on one server. @throws LuthierError where a call fails */
export async function play({ client, call }: Connection, world: World, { mayFail = [] }: Play = {}): Promise<void> {
  const { ledger } = world;
  const upload = (what: string, count: number, pieces: number, datasetId?: string): Promise<string> =>
    ledger.once(`upload ${what}`, async () => {
      const options = { requestId: requestId(what), ...(datasetId === undefined ? {} : { datasetId }) };
      return (await client.uploadDataset(slowly(conversations(count), pieces), options)).name;
    });

  /** Creates a job and watches it until it has succeeded; where it failed for an accepted reason, it is resumed or created again. */
  const train = async (what: string, settings: Record<string, unknown>, dataset: string): Promise<TrainingJob> => {
    for (let attempt = 1; ; attempt++) {
      const id = `${what} ${attempt}`;
      const { name } = await ledger.once(`create ${id}`, () =>
        client.createTrainingJob({ spec: spec(dataset, settings), requestId: requestId(id) }),
      );
      const job = await follow(name);
      if (job.state === JobState.JOB_STATE_SUCCEEDED) return job;
      const reason = job.failure?.reason ?? '';
      if (!isTerminal(job.state) || !mayFail.includes(reason)) {
        throw new Error(`${name} ended in state ${job.state} ${reason}: ${job.failure?.message ?? ''}`);
      }
    }
  };

  /** Watches a job to its end, also one that failed for an accepted reason and can go on. */
  const follow = async (name: string): Promise<TrainingJob> => {
    for (;;) {
      for await (const event of client.watchTrainingJob(name, { afterSequence: ledger.lastSequence(name) })) {
        ledger.event(event);
      }
      const job = await client.getTrainingJob(name);
      const canGoOn = job.state === JobState.JOB_STATE_FAILED && job.lastCheckpoint !== undefined;
      if (!canGoOn || !mayFail.includes(job.failure?.reason ?? '')) return job;
      await client.resumeTrainingJob(name);
    }
  };

  const remove = <Response>(what: string, method: Deletion<Response>, name: string): Promise<Response> =>
    ledger.once(`delete ${what}`, () => call(method, { name, requestId: requestId(`no ${what}`) }));

  const comeAndGo = async (): Promise<void> => {
    const scrap = await upload('scrap', 6, 2);
    const { adapter } = await ledger.once('upload adapter', () =>
      client.uploadAdapter(TINY_ADAPTER, {
        baseModel: 'models/tiny',
        allowOtherBase: true,
        requestId: requestId('brought'),
      }),
    );
    await remove('scrap', DatasetServiceService.deleteDataset, scrap);
    await remove('brought', AdapterServiceService.deleteAdapter, adapter?.name ?? '');
  };

  const dataset = await upload('train', EXAMPLES, 5, 'train');
  const evalDataset = await upload('held out', 5, 2);
  // Both to their ends: whoever plays on must be alone.
  const both = [train('first', { ...JOB, evalDataset, output: 'first' }, dataset), comeAndGo()];
  for (const part of await Promise.allSettled(both)) if (part.status === 'rejected') throw part.reason;
  if (!ledger.has('delete second')) {
    const second = await ledger.once('train second', () => train('second', { maxSteps: 2, output: 'second' }, dataset));
    await remove('second adapter', AdapterServiceService.deleteAdapter, 'adapters/second');
    await remove('second', TrainingServiceService.deleteTrainingJob, second.name);
  }
  await ledger.once('export', async () => {
    const path = join(world.exports, 'first');
    const request = { name: 'adapters/first', path, requestId: requestId('export') };
    await client.exportAdapter(request).catch((error: unknown) => {
      // The folder appeared, but its answer was lost; `check` compares what it holds.
      if (!isReason(error, 'EXPORT_TARGET_NOT_EMPTY')) throw error;
    });
  });
  const fetched = world.beside('fetched');
  rmSync(fetched, { recursive: true, force: true });
  mkdirSync(fetched);
  await client.downloadAdapter('adapters/first', fetched);
}
