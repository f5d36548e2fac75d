/**
 * Random calls of several clients at once against one server, with an engine without a device. The audit is the history of all jobs in one order: it is
 * replayed on a model of the queue and of a job's states that is written down here once more, and what the calls answered must fit to it. A failure
 * prints the seed and the calls.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  DatasetFormat,
  eachPage,
  JobState,
  LuthierClient,
  LuthierError,
  type TrainingEvent,
} from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import type { AuditEntry } from '../../src/gen/luthier/v1/training_service.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

const NOTHING = JobState.JOB_STATE_UNSPECIFIED;
const { JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING } = JobState;
const { JOB_STATE_PAUSED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED } = JobState;
const WORKED_ON: readonly JobState[] = [JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING];
const ENDED: readonly JobState[] = [JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED];

/** Where the model lets a job go; where it has ended, to be deleted. No job fails here. */
const LEGAL = new Map<JobState, readonly JobState[]>([
  [NOTHING, [JOB_STATE_QUEUED]],
  [JOB_STATE_QUEUED, [JOB_STATE_VALIDATING, JOB_STATE_PAUSED, JOB_STATE_CANCELLED]],
  [JOB_STATE_VALIDATING, [JOB_STATE_LOADING, JOB_STATE_PAUSED, JOB_STATE_CANCELLED]],
  [JOB_STATE_LOADING, [JOB_STATE_RUNNING, JOB_STATE_PAUSED, JOB_STATE_CANCELLED]],
  [JOB_STATE_RUNNING, [JOB_STATE_SUCCEEDED, JOB_STATE_PAUSED, JOB_STATE_CANCELLED]],
  [JOB_STATE_PAUSED, [JOB_STATE_QUEUED, JOB_STATE_CANCELLED]],
  [JOB_STATE_SUCCEEDED, [NOTHING]],
  [JOB_STATE_CANCELLED, [NOTHING]],
]);

interface ModelJob {
  readonly priority: number;
  readonly order: number;
  state: JobState;
  readonly states: JobState[];
  deleted: boolean;
}

/** Replays the history. @returns What became of each job. */
function replay(
  history: readonly AuditEntry[],
  priorities: ReadonlyMap<string, number>,
  maxConcurrentJobs: number,
): Map<string, ModelJob> {
  const jobs = new Map<string, ModelJob>();
  for (const { entryNumber, job: name, from, to } of history) {
    if (from === NOTHING) {
      expect(jobs.has(name)).toBe(false);
      const priority = priorities.get(name) ?? 0;
      jobs.set(name, { priority, order: jobs.size, state: NOTHING, states: [], deleted: false });
    }
    const job = jobs.get(name);
    if (job === undefined) throw new Error(`entry ${entryNumber}: ${name} was never created`);
    expect([entryNumber, from, job.deleted]).toEqual([entryNumber, job.state, false]);
    expect(LEGAL.get(from)).toContain(to);
    if (to === JOB_STATE_VALIDATING) {
      const [next] = [...jobs.values()]
        .filter(({ state }) => state === JOB_STATE_QUEUED)
        .toSorted((one, other) => other.priority - one.priority || one.order - other.order);
      expect(next).toBe(job);
    }
    job.state = to;
    job.states.push(to);
    job.deleted = from !== NOTHING && to === NOTHING;
    const workedOn = [...jobs.values()].filter(({ state }) => WORKED_ON.includes(state));
    expect(workedOn.length).toBeLessThanOrEqual(maxConcurrentJobs);
  }
  return jobs;
}

const job = fc.nat(5);
const call = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({ kind: fc.constant('create' as const), priority: fc.integer({ min: -2, max: 2 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('train' as const), priority: fc.integer({ min: -2, max: 2 }) }),
  },
  ...(['get', 'cancel', 'delete', 'pause', 'resume'] as const).map((kind) => ({
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant(kind), job }),
  })),
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('list' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('watch' as const), job, after: fc.nat(12) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('wait' as const), turns: fc.nat(30) }) },
);
type Call = typeof call extends fc.Arbitrary<infer T> ? T : never;

/** A server for one history. */
async function open(maxConcurrentJobs: number) {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-histories-'));
  const options = serverConfigSchema.parse({
    port: 0,
    dataDir,
    threads: 1,
    models: { fake: '/models/fake' },
    drainSeconds: 0,
    metricFiles: false,
    maxConcurrentJobs,
  });
  const engine = createFakeEngine({ beforeStep: () => setImmediate() });
  const server = await createServer(options, { engine, logger: createLogger({ level: 'silent', format: 'json' }) });
  const client = new LuthierClient({ address: (await server.start()).address, retry: { maxAttempts: 0 } });
  const line = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n';
  const { name: dataset } = await client.uploadDataset([line], { format: DatasetFormat.DATASET_FORMAT_MESSAGES });
  const close = async (): Promise<void> => {
    client.close();
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  };
  return { client, dataset, close };
}

async function reasonOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return '';
  } catch (error) {
    if (error instanceof LuthierError) return error.reason;
    throw error;
  }
}

async function all(events: AsyncIterable<TrainingEvent>): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

test('what any calls do and answer is a history that the model of the queue allows', async () => {
  const batches = fc.array(fc.array(call, { minLength: 1, maxLength: 4, size: 'max' }), {
    minLength: 3,
    maxLength: 12,
    size: 'max',
  });
  const kinds = new Set<string>();
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 2 }), batches, async (maxConcurrentJobs, calls) => {
      const { client, dataset, close } = await open(maxConcurrentJobs);
      const names: string[] = [];
      const priorities = new Map<string, number>();
      /** States that calls answered, and logs that watchers read, by job. */
      const answered = new Map<string, JobState[]>();
      const read: { readonly name: string; readonly after: number; readonly events: readonly TrainingEvent[] }[] = [];
      const watching: Promise<void>[] = [];
      const note = (name: string, state: JobState): void => {
        answered.set(name, [...(answered.get(name) ?? []), state]);
      };
      const specOf = (priority: number) => ({
        model: 'models/fake',
        dataset,
        perDeviceTrainBatchSize: 1,
        numTrainEpochs: 4,
        priority,
      });
      /** Runs on behind the other calls. A job that is deleted while it is watched ends its watchers. */
      const watch = (name: string, after: number): void => {
        const reading = all(client.watchTrainingJob(name, { afterSequence: after }));
        watching.push(
          reading.then(
            (events) => void read.push({ name, after, events }),
            (error: LuthierError) => expect(error.reason).toBe('JOB_NOT_FOUND'),
          ),
        );
      };
      const perform = async (one: Call): Promise<void> => {
        kinds.add(one.kind);
        if (one.kind === 'wait') {
          for (let turn = 0; turn < one.turns; turn++) await setImmediate();
        } else if (one.kind === 'create') {
          const { name, state } = await client.createTrainingJob({ spec: specOf(one.priority) });
          names.push(name);
          priorities.set(name, one.priority);
          note(name, state);
        } else if (one.kind === 'train') {
          const events = client.train(specOf(one.priority));
          const first = (await events.next()).value as TrainingEvent;
          names.push(first.job);
          priorities.set(first.job, one.priority);
          // Leaving the stream changes nothing.
          await events.return();
        } else if (one.kind === 'list') {
          for (const { name, state } of (await client.listTrainingJobs({ pageSize: 1000 })).jobs) note(name, state);
        } else {
          const name = names[one.job % Math.max(1, names.length)];
          if (name === undefined) return;
          if (one.kind === 'watch') return watch(name, one.after);
          const change = async (): Promise<void> => {
            if (one.kind === 'delete') return client.deleteTrainingJob(name);
            const method = {
              get: 'getTrainingJob',
              cancel: 'cancelTrainingJob',
              pause: 'pauseTrainingJob',
              resume: 'resumeTrainingJob',
            } as const;
            const { state } = await client[method[one.kind]](name);
            note(name, state);
            if (one.kind === 'cancel') expect(ENDED).toContain(state);
            if (one.kind === 'pause' || one.kind === 'cancel') expect(WORKED_ON).not.toContain(state);
          };
          const allowed = one.kind === 'get' || one.kind === 'cancel' ? [''] : ['', 'INVALID_STATE'];
          expect([...allowed, 'JOB_NOT_FOUND']).toContain(await reasonOf(change()));
        }
      };
      try {
        for (const batch of calls) await Promise.all(batch.map(perform));
        const left = (await client.listTrainingJobs({ pageSize: 1000 })).jobs.map(({ name }) => name);
        for (const name of left) await reasonOf(client.resumeTrainingJob(name));
        for (const name of left) await all(client.watchTrainingJob(name));
        await Promise.all(watching);
        const history: AuditEntry[] = [];
        const page = (pageToken: string) => client.listAuditEntries({ pageToken, pageSize: 100 });
        for await (const { entries } of eachPage(page)) history.push(...entries);
        const jobs = replay(history.toReversed(), priorities, maxConcurrentJobs);
        expect([...jobs.keys()].toSorted()).toEqual(names.toSorted());
        for (const [name, model] of jobs) {
          for (const state of answered.get(name) ?? []) expect(model.states).toContain(state);
          expect(left.includes(name)).toBe(!model.deleted);
          if (model.deleted) {
            expect(await reasonOf(client.getTrainingJob(name))).toBe('JOB_NOT_FOUND');
            continue;
          }
          const found = await client.getTrainingJob(name);
          expect([found.state, ENDED.includes(found.state)]).toEqual([model.state, true]);
          const log = await all(client.watchTrainingJob(name));
          expect(log.map(({ sequence }) => sequence)).toEqual(log.map((_, index) => index + 1));
          const states = log.flatMap(({ event }) => (event?.$case === 'stateChange' ? [event.value.to] : []));
          expect(states).toEqual(model.states);
          const steps = log.flatMap(({ event }) => (event?.$case === 'step' ? [event.value.globalStep] : []));
          expect(steps).toEqual(steps.map((_, index) => index + 1));
          expect(found.state === JOB_STATE_SUCCEEDED ? steps.length : 0).toBe(
            found.state === JOB_STATE_SUCCEEDED ? 4 : 0,
          );
          for (const { after, events } of read.filter((one) => one.name === name)) {
            expect(events).toEqual(log.slice(after));
          }
        }
      } finally {
        await close();
      }
    }),
    { numRuns: 12, endOnFailure: true },
  );
  expect(kinds.size).toBe(10);
}, 300_000);
