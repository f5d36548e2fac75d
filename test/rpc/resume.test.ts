/** Jobs that stop and go on, over real gRPC with an engine without a device: paused, resumed, cancelled, and what servers find that died. */
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import { expect, onTestFinished, test, vi } from 'vitest';
import { unary } from '../../clients/typescript/src/call.ts';
import { DatasetFormat, JobState, LuthierClient, type TrainingEvent } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { EngineError } from '../../src/engine/errors.ts';
import { createFakeEngine, type FakeEngineOptions } from '../../src/engine/fake.ts';
import { TrainingServiceService } from '../../src/gen/luthier/v1/training_service.ts';
import { label } from '../../src/jobs/job-state.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

const { JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING } = JobState;
const { JOB_STATE_PAUSED, JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED } = JobState;

/** Steps of every job here. */
const STEPS = 10;

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-resume-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Waits before each step until the checkpoint that was taken before it, every so many steps, is on the disk. */
function paced(dataDir: string, every: number, before: FakeEngineOptions['beforeStep'] = () => undefined) {
  return async (step: number): Promise<void> => {
    if (step > 1 && (step - 1) % every === 0) {
      await vi.waitFor(() => {
        const names = readdirSync(join(dataDir, 'checkpoints'), { recursive: true, encoding: 'utf8' });
        expect(names.some((name) => new RegExp(`/${step - 1}-\\d+$`).test(name))).toBe(true);
      });
    }
    await before(step);
  };
}

async function start(options: FakeEngineOptions = {}, dataDir = scratch()) {
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir,
    threads: 1,
    models: { fake: '/models/fake' },
    drainSeconds: 0,
  });
  const logger = createLogger({ level: 'silent', format: 'json' });
  const server = await createServer(settings, { engine: createFakeEngine(options), logger });
  const { address } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  const stop = async (): Promise<void> => {
    client.close();
    await server.close();
  };
  onTestFinished(stop);
  const create = async (more: Record<string, unknown> = {}): Promise<string> => {
    const line = (text: string) =>
      `{"messages":[{"role":"user","content":"${text}"},{"role":"assistant","content":"b"}]}\n`;
    const lines = ['a', 'b', 'c', 'd'].map(line);
    const { name: dataset } = await client.uploadDataset([lines.join('')], {
      format: DatasetFormat.DATASET_FORMAT_MESSAGES,
    });
    const spec = { model: 'models/fake', dataset, perDeviceTrainBatchSize: 2, numTrainEpochs: STEPS / 2, ...more };
    return (await client.createTrainingJob({ spec })).name;
  };
  return { address, client, create, stop, dataDir };
}

type Server = Awaited<ReturnType<typeof start>>;

/** A gate that a run stands at until it is opened. */
function gate(at = 1) {
  const opened = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const before = async (here: unknown): Promise<void> => {
    if (typeof here === 'number' && here !== at) return;
    reached.resolve();
    await opened.promise;
  };
  onTestFinished(() => opened.resolve());
  return { before, open: opened.resolve, reached: reached.promise };
}

async function eventsOf({ client }: Server, job: string): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  const { lastSequence } = await client.getTrainingJob(job);
  for await (const event of client.watchTrainingJob(job)) {
    seen.push(event);
    if (event.sequence >= lastSequence) break;
  }
  return seen;
}

async function untilEnd({ client }: Server, job: string): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  for await (const event of client.watchTrainingJob(job)) seen.push(event);
  return seen;
}

const states = (events: readonly TrainingEvent[]): string[] => bodies(events, 'stateChange').map(({ to }) => label(to));
type Body<Case extends string> = Extract<NonNullable<TrainingEvent['event']>, { $case: Case }>['value'];
function bodies<Case extends NonNullable<TrainingEvent['event']>['$case']>(
  events: readonly TrainingEvent[],
  kind: Case,
): Body<Case>[] {
  return events.flatMap(({ event }) => (event?.$case === kind ? [event.value as Body<Case>] : []));
}
const warnings = (events: readonly TrainingEvent[]) => bodies(events, 'warning').map(({ reason }) => reason);

/** No gap, no duplicate, every step, and one plan. */
function checkWhole(events: readonly TrainingEvent[]): void {
  expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
  const steps = bodies(events, 'step').map(({ globalStep }) => globalStep);
  expect(steps).toEqual(Array.from({ length: STEPS }, (_, index) => index + 1));
  const evaluations = bodies(events, 'evaluation').map(({ globalStep }) => globalStep);
  expect(evaluations).toEqual([...new Set(evaluations)]);
  expect(bodies(events, 'plan')).toHaveLength(1);
}

const checkpointsIn = (dataDir: string, job: string): string[] => {
  const folder = join(dataDir, 'checkpoints', job.replace('trainingJobs/', ''));
  return existsSync(folder) ? readdirSync(folder).sort() : [];
};

/** A job that stands before a step, with the checkpoints of those before. */
async function standing(step: number, more: Record<string, unknown> = {}, options: FakeEngineOptions = {}) {
  const { before, open, reached } = gate(step);
  const dataDir = scratch();
  const every = Number(more.saveSteps ?? (more.saveStrategy === 'epoch' ? 2 : Number.POSITIVE_INFINITY));
  const server = await start({ ...options, beforeStep: paced(dataDir, every, before) }, dataDir);
  const job = await server.create(more);
  await reached;
  return { server, job, open };
}

/** A job that a server left which died before a step. */
async function left(step: number, more: Record<string, unknown> = {}) {
  const dead = await standing(step, more);
  // What the dead server had on the disk when the job stood there.
  await vi.waitFor(async () => {
    const taken = Math.floor((step - 1) / Number(more.saveSteps ?? Number.POSITIVE_INFINITY));
    const saved = bodies(await eventsOf(dead.server, dead.job), 'checkpointSaved');
    expect(saved).toHaveLength(taken);
  });
  // Copied, as if the process had been killed: closing it would leave a checkpoint.
  const dataDir = scratch();
  cpSync(dead.server.dataDir, dataDir, { recursive: true });
  return { dataDir, job: dead.job, dead };
}

const adapterHash = async ({ client }: Server, job: string): Promise<string> => (await client.getAdapter(job)).sha256;

test('a running job is paused behind its checkpoint, resumed, and ends as if it had not been', async () => {
  const { server, job, open } = await standing(4, { validationSplit: 0.4, numTrainEpochs: STEPS });
  const { client } = server;
  const paused = await client.pauseTrainingJob(job);
  expect(paused).toMatchObject({ state: JOB_STATE_PAUSED, lastCheckpoint: { globalStep: 3 } });
  expect(paused.endTime).toBeUndefined();
  expect(checkpointsIn(server.dataDir, job)).toEqual(['3-1']);
  // The device is free: another job runs.
  open();
  const other = await server.create();
  expect(states(await untilEnd(server, other)).at(-1)).toBe('SUCCEEDED');
  expect(await client.getServerInfo()).toMatchObject({ queuedJobs: 0, runningJobs: 0 });

  expect((await client.pauseTrainingJob(job)).lastSequence).toBe(paused.lastSequence);
  const resumed = await client.resumeTrainingJob(job);
  expect([JOB_STATE_QUEUED, JOB_STATE_VALIDATING]).toContain(resumed.state);
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(states(events)).toEqual([
    'QUEUED',
    'VALIDATING',
    'LOADING',
    'RUNNING',
    'PAUSED',
    'QUEUED',
    'VALIDATING',
    'LOADING',
    'RUNNING',
    'SUCCEEDED',
  ]);
  expect(warnings(events)).toEqual([]);
  expect(bodies(events, 'jobResumed')).toMatchObject([
    { checkpoint: { globalStep: 3 }, differences: [], skippedCheckpoints: [] },
  ]);
  expect(bodies(events, 'adapterSaved')).toMatchObject([{ globalStep: STEPS }]);
  const ended = await client.getTrainingJob(job);
  expect(ended.lastCheckpoint).toBeUndefined();
  await vi.waitFor(() => expect(checkpointsIn(server.dataDir, job)).toEqual([]));
  const direct = await server.create({ validationSplit: 0.4, numTrainEpochs: STEPS });
  const straight = await untilEnd(server, direct);
  expect(await adapterHash(server, job)).toBe(await adapterHash(server, direct));
  expect(bodies(events, 'step')).toEqual(bodies(straight, 'step'));
  expect(bodies(events, 'evaluation')).toEqual(bodies(straight, 'evaluation'));
});

test('a waiting job is paused at once and keeps its place by age', async () => {
  const { server, job: running, open } = await standing(1);
  const { client } = server;
  const [second, third] = [await server.create(), await server.create()];
  expect((await client.pauseTrainingJob(second)).state).toBe(JOB_STATE_PAUSED);
  expect((await client.getTrainingJob(third)).queuePosition).toBe(1);
  expect(await client.resumeTrainingJob(second)).toMatchObject({ state: JOB_STATE_QUEUED, queuePosition: 1 });
  // As it was: it waits already.
  expect(await client.resumeTrainingJob(second)).toMatchObject({ state: JOB_STATE_QUEUED, queuePosition: 1 });
  expect((await client.resumeTrainingJob(running)).state).toBe(JOB_STATE_RUNNING);
  open();
  const events = await untilEnd(server, second);
  checkWhole(events);
  expect(bodies(events, 'jobResumed')).toEqual([]);
});

test.each(['pauseTrainingJob', 'cancelTrainingJob'] as const)('while its model is loaded: %s', async (call) => {
  const { before, open, reached } = gate();
  const server = await start({ beforeLoad: before });
  const job = await server.create();
  await reached;
  expect((await server.client.getTrainingJob(job)).state).toBe(JOB_STATE_LOADING);
  const stopping = server.client[call](job);
  open();
  const stopped = await stopping;
  expect(stopped.state).toBe(call === 'pauseTrainingJob' ? JOB_STATE_PAUSED : JOB_STATE_CANCELLED);
  expect(stopped.lastStep).toBeUndefined();
  if (call === 'cancelTrainingJob') return;
  await server.client.resumeTrainingJob(job);
  checkWhole(await untilEnd(server, job));
});

test('a paused job is cancelled with its checkpoints; what has ended is neither paused nor resumed', async () => {
  const { server, job } = await standing(3);
  const { client } = server;
  await client.pauseTrainingJob(job);
  expect(checkpointsIn(server.dataDir, job)).toHaveLength(1);
  expect(await client.cancelTrainingJob(job)).toMatchObject({ state: JOB_STATE_CANCELLED, lastCheckpoint: undefined });
  expect(checkpointsIn(server.dataDir, job)).toEqual([]);
  await expect(client.pauseTrainingJob(job)).rejects.toMatchObject({
    reason: 'INVALID_STATE',
    message: `${job} is CANCELLED; expected a job that has not ended`,
  });
  await expect(client.resumeTrainingJob(job)).rejects.toMatchObject({
    reason: 'INVALID_STATE',
    message: `${job} is CANCELLED; expected PAUSED, or FAILED with a checkpoint: create a new job instead`,
  });
});

test('cancelling while a pause is written waits for it and wins', async () => {
  const { before, open, reached } = gate(2);
  const { server, job } = await standing(3, {}, { beforeSave: before });
  const pausing = server.client.pauseTrainingJob(job).catch((error: unknown) => error);
  await reached;
  const cancelling = server.client.cancelTrainingJob(job);
  open();
  expect((await cancelling).state).toBe(JOB_STATE_CANCELLED);
  await pausing;
  expect(checkpointsIn(server.dataDir, job)).toEqual([]);
});

test('a repeated request id changes nothing, also where the job was resumed since', async () => {
  const { server, job, open } = await standing(3);
  const grpc = new Client(server.address, credentials.createInsecure());
  onTestFinished(() => grpc.close());
  const request = { name: job, requestId: '7f6e8a0e-0000-4000-8000-000000000011' };
  const pause = () => unary(grpc, TrainingServiceService.pauseTrainingJob, request, {});
  const first = await pause();
  open();
  await server.client.resumeTrainingJob(job);
  await untilEnd(server, job);
  expect(await pause()).toEqual(first);
});

test('a failed job with a checkpoint is resumed, and its failure stays in its events only', async () => {
  let failures = 1;
  const server = await start({
    beforeStep: async (step) => {
      if (step !== 6 || failures-- <= 0) return;
      // The checkpoint before is on the disk by then.
      await vi.waitFor(() => expect(readdirSync(join(server.dataDir, 'checkpoints')).length).toBe(1));
      throw new EngineError('OUT_OF_MEMORY', 'allocating 7 bytes (5 are free)');
    },
  });
  const { client } = server;
  const job = await server.create({ saveSteps: 2 });
  await untilEnd(server, job);
  expect(await client.getTrainingJob(job)).toMatchObject({
    state: JOB_STATE_FAILED,
    failure: { reason: 'OUT_OF_MEMORY' },
    lastCheckpoint: { globalStep: 4 },
  });
  const resumed = await client.resumeTrainingJob(job);
  expect(resumed.failure).toBeUndefined();
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(states(events).slice(3, 6)).toEqual(['RUNNING', 'FAILED', 'QUEUED']);
  expect(events.some(({ event }) => event?.$case === 'stateChange' && event.value.failure !== undefined)).toBe(true);
  expect(await client.getTrainingJob(job)).toMatchObject({ state: JOB_STATE_SUCCEEDED, failure: undefined });
});

test('a failed job without a checkpoint is not resumed; deleting one deletes its checkpoints', async () => {
  const failing = {
    beforeStep: (step: number) => {
      if (step === 4) throw new EngineError('NON_FINITE_LOSS', 'the loss of step 4 is NaN');
    },
  };
  const server = await start(failing);
  const none = await server.create({ saveStrategy: 'no' });
  await untilEnd(server, none);
  await expect(server.client.resumeTrainingJob(none)).rejects.toMatchObject({ reason: 'INVALID_STATE' });
  const some = await server.create({ saveSteps: 1 });
  await untilEnd(server, some);
  expect(checkpointsIn(server.dataDir, some)).not.toEqual([]);
  await server.client.deleteTrainingJob(some);
  expect(checkpointsIn(server.dataDir, some)).toEqual([]);
});

test('a server that is stopped leaves a checkpoint, and the next one goes on before other jobs', async () => {
  const { server: first, job } = await standing(4);
  const waiting = await first.create();
  const seen = await eventsOf(first, job);
  await first.stop();
  expect(checkpointsIn(first.dataDir, job)).toEqual(['3-1']);
  const second = await start({}, first.dataDir);
  const events = await untilEnd(second, job);
  checkWhole(events);
  expect(events.slice(0, seen.length)).toEqual(seen);
  const back = bodies(events, 'stateChange').find(
    ({ from, to }) => from === JOB_STATE_RUNNING && to === JOB_STATE_QUEUED,
  );
  expect(back?.failure).toMatchObject({ reason: 'DRAINING', message: expect.stringContaining('was stopped') });
  expect((await second.client.getTrainingJob(job)).failure).toBeUndefined();
  const others = await untilEnd(second, waiting);
  const began = (all: readonly TrainingEvent[], to: JobState) =>
    all.findLast(({ event }) => event?.$case === 'stateChange' && event.value.to === to)?.time?.getTime() ?? Number.NaN;
  expect(began(events, JOB_STATE_SUCCEEDED)).toBeLessThanOrEqual(began(others, JOB_STATE_VALIDATING));
});

test('a job of a server that died goes on from its checkpoint; steps after it are not told twice', async () => {
  const { dataDir, job, dead } = await left(6, { saveSteps: 2, validationSplit: 0.4, numTrainEpochs: STEPS });
  const server = await start({}, dataDir);
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(bodies(events, 'jobResumed')).toMatchObject([{ checkpoint: { globalStep: 4 } }]);
  expect(warnings(events)).toEqual([]);
  expect(
    bodies(events, 'stateChange').find(({ to, from }) => to === JOB_STATE_QUEUED && from === JOB_STATE_RUNNING)
      ?.failure,
  ).toMatchObject({ reason: 'INTERRUPTED', message: expect.stringContaining('ended') });
  dead.open();
  await untilEnd(dead.server, dead.job);
  expect(await adapterHash(server, job)).toBe(await adapterHash(dead.server, dead.job));
  const lines = readFileSync(join(dataDir, 'runs', job.replace('trainingJobs/', ''), 'metrics.jsonl'), 'utf8');
  const steps = lines.split('\n').filter((line) => line.includes('train/loss'));
  expect(steps).toHaveLength(STEPS);
});

test('a job that servers die of is not taken up for ever', async () => {
  let { dataDir, job } = await left(6, { saveSteps: 2 });
  // Each dies before the step that would be new.
  for (let deaths = 2; deaths <= 3; deaths++) {
    const { before, reached } = gate(6);
    const server = await start({ beforeStep: before }, dataDir);
    await reached;
    dataDir = scratch();
    cpSync(server.dataDir, dataDir, { recursive: true });
  }
  const server = await start({}, dataDir);
  const failed = await server.client.getTrainingJob(job);
  expect(failed).toMatchObject({ state: JOB_STATE_FAILED, failure: { reason: 'INTERRUPTED' } });
  expect(failed.failure?.message).toMatch(/3 times in a row/);
  await server.client.resumeTrainingJob(job);
  checkWhole(await untilEnd(server, job));
});

test('what is computed again and differs is told once, with what else differs', async () => {
  const { dataDir, job } = await left(6, { saveSteps: 2 });
  const server = await start({ lossOffset: (step) => (step >= 5 ? 0.25 : 0), deviceName: 'other' }, dataDir);
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(bodies(events, 'jobResumed')).toMatchObject([{ differences: ['device: fake then, other now'] }]);
  const told = bodies(events, 'warning');
  expect(told).toMatchObject([{ reason: 'NOT_REPRODUCED' }]);
  expect(told[0]?.message).toMatch(/step 5: loss 2\.333\d+ in its events, 2\.583\d+ now.*device: fake then, other now/);
});

const stateFile = (dataDir: string, job: string, checkpoint: string): string =>
  join(dataDir, 'checkpoints', job.replace('trainingJobs/', ''), checkpoint, 'state.json');

function flipByte(file: string): void {
  const bytes = readFileSync(file);
  const last = bytes.length - 1;
  bytes[last] = (bytes[last] ?? 0) ^ 1;
  writeFileSync(file, bytes);
}

test('a broken checkpoint is told of, and the one before is taken; broken ones are deleted later', async () => {
  const { dataDir, job } = await left(6, { saveSteps: 2 });
  expect(checkpointsIn(dataDir, job)).toEqual(['2-1', '4-2']);
  flipByte(stateFile(dataDir, job, '4-2'));
  const { before, open, reached } = gate(8);
  const server = await start({ beforeStep: paced(dataDir, 2, before) }, dataDir);
  await reached;
  await vi.waitFor(() => expect(checkpointsIn(dataDir, job)).not.toContain('4-2'));
  expect(checkpointsIn(dataDir, job).at(-1)).toMatch(/^6-/);
  open();
  const events = await untilEnd(server, job);
  checkWhole(events);
  const id = job.replace('trainingJobs/', '');
  expect(bodies(events, 'warning')).toMatchObject([
    { reason: 'CHECKPOINT_CORRUPT', message: expect.stringContaining(`${id}/4-2 is not used`) },
  ]);
  expect(bodies(events, 'jobResumed')).toMatchObject([
    { checkpoint: { globalStep: 2 }, skippedCheckpoints: [`${id}/4-2`] },
  ]);
});

test('with every checkpoint broken, or without any, a job runs from the start and says so', async () => {
  const broken = await left(6, { saveSteps: 2 });
  flipByte(stateFile(broken.dataDir, broken.job, '4-2'));
  rmSync(stateFile(broken.dataDir, broken.job, '2-1'));
  const first = await start({}, broken.dataDir);
  const events = await untilEnd(first, broken.job);
  checkWhole(events);
  expect(warnings(events)).toEqual(['CHECKPOINT_CORRUPT', 'CHECKPOINT_CORRUPT']);
  expect(bodies(events, 'jobResumed')).toMatchObject([{ checkpoint: undefined, skippedCheckpoints: { length: 2 } }]);

  const gone = await left(6, { saveSteps: 2 });
  rmSync(join(gone.dataDir, 'checkpoints'), { recursive: true });
  const second = await start({}, gone.dataDir);
  const again = await untilEnd(second, gone.job);
  checkWhole(again);
  expect(bodies(again, 'jobResumed')).toMatchObject([{ checkpoint: undefined, skippedCheckpoints: [] }]);
});

test('a model that is another one than before fails the job, which says so and keeps its checkpoints', async () => {
  const { dataDir, job } = await left(6, { saveSteps: 2 });
  const server = await start({ models: { '/models/fake': { contentHash: 'e'.repeat(64) } } }, dataDir);
  await untilEnd(server, job);
  const failed = await server.client.getTrainingJob(job);
  expect(failed).toMatchObject({ state: JOB_STATE_FAILED, failure: { reason: 'CHECKPOINT_MISMATCH' } });
  expect(failed.failure?.message).toMatch(
    /content hash of the base model was .* when checkpoint .* was taken, and is e{64} now/,
  );
  expect(checkpointsIn(dataDir, job)).toEqual(['2-1', '4-2']);
});

test('a checkpoint that cannot be written is told of once, and training goes on', async () => {
  const server = await start({
    beforeSave: (step) => {
      if (step < 7) throw new EngineError('STORAGE_FULL', 'the disk is full');
    },
    beforeStep: async () => {
      await new Promise((resolve) => setTimeout(resolve, 5));
    },
  });
  const job = await server.create({ saveSteps: 1 });
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(bodies(events, 'warning')).toMatchObject([
    { reason: 'CHECKPOINT_NOT_SAVED', message: expect.stringMatching(/the disk is full; training goes on/) },
  ]);
  expect(bodies(events, 'checkpointSaved').length).toBeGreaterThan(0);
});

test('a job is paused where its checkpoint cannot be written, and says what that means', async () => {
  let full = true;
  const beforeSave = () => {
    if (full) throw new EngineError('STORAGE_FULL', 'the disk is full');
  };
  const { server, job, open } = await standing(4, {}, { beforeSave });
  expect((await server.client.pauseTrainingJob(job)).state).toBe(JOB_STATE_PAUSED);
  full = false;
  open();
  await server.client.resumeTrainingJob(job);
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(bodies(events, 'warning')).toMatchObject([
    { reason: 'CHECKPOINT_NOT_SAVED', message: expect.stringContaining('from the one before, or from the start') },
  ]);
  expect(bodies(events, 'jobResumed')).toMatchObject([{ checkpoint: undefined }]);
});

test('checkpoints that are deleted under a running job are made anew', async () => {
  const { server, job, open } = await standing(6, { saveSteps: 2 });
  await vi.waitFor(() => expect(checkpointsIn(server.dataDir, job)).toEqual(['2-1', '4-2']));
  rmSync(join(server.dataDir, 'checkpoints'), { recursive: true });
  const { client } = server;
  expect((await client.pauseTrainingJob(job)).state).toBe(JOB_STATE_PAUSED);
  expect(checkpointsIn(server.dataDir, job)).toEqual(['5-1']);
  open();
  await client.resumeTrainingJob(job);
  const events = await untilEnd(server, job);
  checkWhole(events);
  expect(warnings(events)).toEqual([]);
});

test('at the end of each epoch; so many are kept; those of jobs that are gone are swept', async () => {
  const { server, job, open } = await standing(10, { saveStrategy: 'epoch', saveTotalLimit: 3 });
  await vi.waitFor(() => expect(checkpointsIn(server.dataDir, job)).toEqual(['4-2', '6-3', '8-4']));
  open();
  await untilEnd(server, job);
  await server.stop();
  const stray = join(server.dataDir, 'checkpoints', '00000000-0000-4000-8000-000000000000', '1-1');
  mkdirSync(stray, { recursive: true });
  await start({}, server.dataDir);
  expect(readdirSync(join(server.dataDir, 'checkpoints'))).toEqual([]);
});

test.each([
  [
    { saveStrategy: 'interval', saveSteps: 5 },
    'spec.save_steps',
    'expected nothing with save_strategy interval, found 5',
  ],
  [{ saveSteps: 5, saveIntervalSeconds: 5 }, 'spec.save_interval_seconds', 'expected nothing with save_steps, found 5'],
  [
    { saveStrategy: 'no', saveIntervalSeconds: 5 },
    'spec.save_interval_seconds',
    /expected nothing with save_strategy no/,
  ],
  [{ saveStrategy: 'always' }, 'spec.save_strategy', /interval, steps, epoch, no/],
  [{ saveTotalLimit: 0 }, 'spec.save_total_limit', /1/],
  [{ saveIntervalSeconds: 0 }, 'spec.save_interval_seconds', /1/],
])('what contradicts itself is refused: %j', async (more, field, description) => {
  const server = await start();
  await expect(server.create(more)).rejects.toMatchObject({
    reason: 'INVALID_REQUEST',
    violations: [
      { field, description: typeof description === 'string' ? description : expect.stringMatching(description) },
    ],
  });
});

test.each([
  [{}, { saveStrategy: 'interval', saveSteps: undefined, saveTotalLimit: 2, saveIntervalSeconds: 60 }],
  [{ saveSteps: 7 }, { saveStrategy: 'steps', saveSteps: 7, saveIntervalSeconds: undefined }],
  [{ saveStrategy: 'steps' }, { saveStrategy: 'steps', saveSteps: 500 }],
])('defaults are written out: %j', async (more, expected) => {
  const server = await start();
  expect((await server.client.getTrainingJob(await server.create(more))).spec).toMatchObject(expected);
});
