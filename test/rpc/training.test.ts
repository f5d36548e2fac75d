/** Training jobs over real gRPC with an engine without a device: the queue, the events, what is refused, what a restart finds. */
import { mkdtempSync, readdirSync, rmSync, statSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client, credentials } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { unary } from '../../clients/typescript/src/call.ts';
import { DatasetFormat, JobState, LuthierClient, type TrainingEvent } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { EngineError } from '../../src/engine/errors.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { TrainingServiceService } from '../../src/gen/luthier/v1/training_service.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

interface Options {
  /** Bytes that the device has left. */
  readonly freeBytes?: number;
  readonly beforeStep?: (step: number) => void | Promise<void>;
  readonly dataDir?: string;
  readonly maxQueuedJobs?: number;
}

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-training-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function start({ beforeStep, freeBytes, dataDir = scratch(), maxQueuedJobs = 10 }: Options = {}) {
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir,
    threads: 1,
    models: { fake: '/models/fake' },
    drainSeconds: 0,
    maxQueuedJobs,
  });
  const engine = createFakeEngine({ freeBytes: freeBytes ?? null, ...(beforeStep ? { beforeStep } : {}) });
  const logger = createLogger({ level: 'silent', format: 'json' });
  const server = await createServer(settings, { engine, logger });
  const { address } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  const stop = async (): Promise<void> => {
    client.close();
    await server.close();
  };
  onTestFinished(stop);
  const upload = async (): Promise<string> => {
    const line = (text: string) =>
      `{"messages":[{"role":"user","content":"${text}"},{"role":"assistant","content":"b"}]}\n`;
    const lines = ['a', 'b', 'c', 'd'].map(line);
    return (await client.uploadDataset([lines.join('')], { format: DatasetFormat.DATASET_FORMAT_MESSAGES })).name;
  };
  return { address, client, upload, stop, dataDir };
}

/** A gate that a run stands at until it is opened. */
function gate(step = 1) {
  const opened = Promise.withResolvers<void>();
  const reached = Promise.withResolvers<void>();
  const beforeStep = async (globalStep: number): Promise<void> => {
    if (globalStep !== step) return;
    reached.resolve();
    await opened.promise;
  };
  onTestFinished(() => opened.resolve());
  return { beforeStep, open: opened.resolve, reached: reached.promise };
}

const spec = (dataset: string, more: Record<string, unknown> = {}) => ({
  model: 'models/fake',
  dataset,
  perDeviceTrainBatchSize: 2,
  numTrainEpochs: 2,
  ...more,
});

async function all(events: AsyncIterable<TrainingEvent>): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

const states = (events: readonly TrainingEvent[]): JobState[] =>
  events.flatMap(({ event }) => (event?.$case === 'stateChange' ? [event.value.to] : []));

test('a job goes through its states, keeps its adapter, and every event has its number', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const job = await client.createTrainingJob({ spec: spec(dataset, { output: 'mine', validationSplit: 0.4 }) });
  const events = await all(client.watchTrainingJob(job.name));
  expect(states(events)).toEqual([
    JobState.JOB_STATE_QUEUED,
    JobState.JOB_STATE_VALIDATING,
    JobState.JOB_STATE_LOADING,
    JobState.JOB_STATE_RUNNING,
    JobState.JOB_STATE_SUCCEEDED,
  ]);
  expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
  const plan = events.find(({ event }) => event?.$case === 'plan')?.event;
  expect(plan?.value).toMatchObject({ maxSteps: 2, examples: 2, evalExamples: 2, template: { id: 'chat-template' } });
  const ended = await client.getTrainingJob(job.name);
  expect(ended).toMatchObject({ adapter: 'adapters/mine', lastSequence: events.length, lastStep: { globalStep: 2 } });
  const saved = events.find(({ event }) => event?.$case === 'adapterSaved')?.event;
  expect(saved?.value).toMatchObject({ adapter: 'adapters/mine', globalStep: 2 });
  expect(ended.bestEvaluation).toEqual(ended.lastEvaluation);
  // What was asked for is kept with its defaults written out.
  expect(ended.spec).toMatchObject({ learningRate: 5e-5, seed: 42, dataSeed: 42, lora: { r: 8, loraAlpha: 16 } });
  expect(await client.getAdapter('adapters/mine')).toMatchObject({ trainingJob: job.name, baseModel: 'models/fake' });
  expect(await all(client.watchTrainingJob(job.name, { afterSequence: 3 }))).toEqual(events.slice(3));
});

test('without evaluations held-out examples are left alone', async () => {
  const { client, upload } = await start();
  const settings = { evalStrategy: 'no', validationSplit: 0.5 };
  const job = await client.createTrainingJob({ spec: spec(await upload(), settings) });
  const events = await all(client.watchTrainingJob(job.name));
  expect(events.some(({ event }) => event?.$case === 'evaluation')).toBe(false);
  const plan = events.find(({ event }) => event?.$case === 'plan')?.event;
  // Of four, their hashes hold out three.
  expect(plan?.value).toMatchObject({ examples: 1, evalExamples: 0 });
});

test('jobs run one after another; a waiting one is cancelled at once, a running one within a step', async () => {
  const { beforeStep, reached, open } = gate();
  const { client, upload } = await start({ beforeStep });
  const dataset = await upload();
  const [first, second, third] = [
    await client.createTrainingJob({ spec: spec(dataset) }),
    await client.createTrainingJob({ spec: spec(dataset) }),
    await client.createTrainingJob({ spec: spec(dataset) }),
  ];
  await reached;
  expect([second.queuePosition, third.queuePosition]).toEqual([1, 2]);
  expect(await client.getServerInfo()).toMatchObject({ queuedJobs: 2, runningJobs: 1 });
  await expect(client.deleteDataset(dataset)).rejects.toMatchObject({ reason: 'DATASET_IN_USE' });
  expect((await client.cancelTrainingJob(second.name)).state).toBe(JobState.JOB_STATE_CANCELLED);
  expect((await client.getTrainingJob(third.name)).queuePosition).toBe(1);
  const cancelling = client.cancelTrainingJob(first.name);
  open();
  expect((await cancelling).state).toBe(JobState.JOB_STATE_CANCELLED);
  expect(states(await all(client.watchTrainingJob(third.name))).at(-1)).toBe(JobState.JOB_STATE_SUCCEEDED);
  expect((await client.cancelTrainingJob(third.name)).state).toBe(JobState.JOB_STATE_SUCCEEDED);
});

test('a job is deleted once it has ended; its adapter stays, also by the name of the job', async () => {
  const { beforeStep, reached, open } = gate();
  const { address, client, upload } = await start({ beforeStep });
  const { name } = await client.createTrainingJob({ spec: spec(await upload(), { output: 'mine' }) });
  await reached;
  await expect(client.deleteTrainingJob(name)).rejects.toMatchObject({
    status: 'FAILED_PRECONDITION',
    message: `${name} is RUNNING; expected SUCCEEDED, FAILED, CANCELLED: wait until it ends, or cancel it first`,
  });
  open();
  await all(client.watchTrainingJob(name));
  const grpc = new Client(address, credentials.createInsecure());
  onTestFinished(() => grpc.close());
  const request = { name, requestId: '7f6e8a0e-0000-4000-8000-000000000002' };
  await unary(grpc, TrainingServiceService.deleteTrainingJob, request, {});
  await unary(grpc, TrainingServiceService.deleteTrainingJob, request, {});
  await expect(client.deleteTrainingJob(name)).rejects.toMatchObject({ reason: 'JOB_NOT_FOUND' });
  await expect(client.getTrainingJob(name)).rejects.toMatchObject({ reason: 'JOB_NOT_FOUND' });
  expect((await client.listTrainingJobs()).jobs).toEqual([]);
  expect(await client.getAdapter('adapters/mine')).toMatchObject({ trainingJob: name });
  expect(await client.getAdapter(name)).toMatchObject({ name: 'adapters/mine' });
});

test('a request id makes one job; for another spec it is refused', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const requestId = '7f6e8a0e-0000-4000-8000-000000000001';
  const job = await client.createTrainingJob({ spec: spec(dataset), requestId });
  expect((await client.createTrainingJob({ spec: spec(dataset), requestId })).name).toBe(job.name);
  const other = client.createTrainingJob({ spec: spec(dataset, { seed: 1 }), requestId });
  await expect(other).rejects.toMatchObject({ reason: 'REQUEST_ID_REUSED' });
});

test('validate_only creates nothing; a full queue is refused as retryable', async () => {
  const { beforeStep, reached } = gate();
  const { client, upload } = await start({ beforeStep, maxQueuedJobs: 1 });
  const dataset = await upload();
  await client.createTrainingJob({ spec: spec(dataset), validateOnly: true });
  expect((await client.listTrainingJobs()).jobs).toEqual([]);
  await client.createTrainingJob({ spec: spec(dataset) });
  await reached;
  await client.createTrainingJob({ spec: spec(dataset) });
  const third = client.createTrainingJob({ spec: spec(dataset) });
  await expect(third).rejects.toMatchObject({ reason: 'QUEUE_FULL', retryable: true });
  expect((await client.listTrainingJobs()).jobs).toHaveLength(2);
});

test("a run that fails ends its job with the engine's reason, and the next job runs", async () => {
  let failures = 1;
  const { client, upload } = await start({
    beforeStep: () => {
      if (failures-- > 0) throw new EngineError('NON_FINITE_LOSS', 'the loss of step 1 is NaN');
    },
  });
  const dataset = await upload();
  const bad = await client.createTrainingJob({ spec: spec(dataset) });
  const good = await client.createTrainingJob({ spec: spec(dataset) });
  await all(client.watchTrainingJob(bad.name));
  expect(await client.getTrainingJob(bad.name)).toMatchObject({
    state: JobState.JOB_STATE_FAILED,
    failure: { reason: 'NON_FINITE_LOSS', message: 'the loss of step 1 is NaN' },
  });
  expect(states(await all(client.watchTrainingJob(good.name))).at(-1)).toBe(JobState.JOB_STATE_SUCCEEDED);
});

test('jobs are listed newest first, page by page, and by state', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const names: string[] = [];
  for (let index = 0; index < 3; index++) {
    const { name } = await client.createTrainingJob({ spec: spec(dataset) });
    await all(client.watchTrainingJob(name));
    names.unshift(name);
  }
  const first = await client.listTrainingJobs({ pageSize: 2 });
  const second = await client.listTrainingJobs({ pageSize: 2, pageToken: first.nextPageToken });
  expect([...first.jobs, ...second.jobs].map(({ name }) => name)).toEqual(names);
  expect(second.nextPageToken).toBe('');
  expect((await client.listTrainingJobs({ states: [JobState.JOB_STATE_FAILED] })).jobs).toEqual([]);
});

test('labels are stored, returned and filtered by; what is no label is refused by name', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const labels = { team: 'a', run: '7' };
  const { name } = await client.createTrainingJob({ spec: spec(dataset, { labels }) });
  await client.createTrainingJob({ spec: spec(dataset, { labels: { team: 'b' } }) });
  expect((await client.getTrainingJob(name)).spec?.labels).toEqual(labels);
  const listed = async (wanted: Record<string, string>) =>
    (await client.listTrainingJobs({ labels: wanted })).jobs.map((job) => job.name);
  expect(await listed({ team: 'a' })).toEqual([name]);
  expect(await listed(labels)).toEqual([name]);
  expect(await listed({ team: 'c' })).toEqual([]);
  const many = Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`l${index}`, '']));
  const refused: readonly (readonly [Record<string, string>, RegExp])[] = [
    [{ '': 'x' }, /^expected a label name: .*, found ""$/],
    [{ 'a b': 'x' }, /^expected a label name: .*, found "a b"$/],
    [{ a: 'x'.repeat(257) }, /^expected at most 256 characters, found/],
    [many, /^expected at most 32 labels, found/],
  ];
  for (const [wrong, description] of refused) {
    await expect(client.createTrainingJob({ spec: spec(dataset, { labels: wrong }) })).rejects.toMatchObject({
      reason: 'INVALID_REQUEST',
      violations: [{ field: expect.stringMatching(/^spec\.labels/), description: expect.stringMatching(description) }],
    });
    await expect(listed(wrong)).rejects.toMatchObject({ reason: 'INVALID_REQUEST' });
  }
});

test('a regular expression that cannot be read makes no job', async () => {
  const { client, upload } = await start();
  const job = spec(await upload(), { lora: { targetPattern: '(q_proj' } });
  const refusal = { reason: 'INVALID_REQUEST', violations: [{ field: 'spec.lora' }] };
  for (const call of [
    client.createTrainingJob({ spec: job }),
    client.createTrainingJob({ spec: job, validateOnly: true }),
    client.estimateTrainingJob(job),
  ]) {
    await expect(call).rejects.toMatchObject(refusal);
    await expect(call).rejects.toThrow(/`\(q_proj` is no regular expression that can be read/);
  }
  expect((await client.listTrainingJobs()).jobs).toEqual([]);
});

test('an estimate is what the job then does, and changes nothing', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const job = spec(dataset, { validationSplit: 0.4 });
  const estimate = await client.estimateTrainingJob(job);
  expect(estimate).toMatchObject({ fits: true, steps: 2, seconds: undefined, suggestions: [], warnings: [] });
  expect((await client.listTrainingJobs()).jobs).toEqual([]);
  expect((await client.getModel('models/fake')).loaded).toBe(false);
  const memory = estimate.plan?.memory;
  expect(estimate.peakBytes).toBe(memory?.totalBytes);
  expect(memory).toMatchObject({ heldBytes: 0, freeBytes: undefined, recomputeLayers: 0, layers: 2 });

  const { name } = await client.createTrainingJob({ spec: job });
  const events = await all(client.watchTrainingJob(name));
  const plan = events.flatMap(({ event }) => (event?.$case === 'plan' ? [event.value] : []))[0];
  // The weights are loaded by then.
  const heldBytes = memory?.weightBytes;
  expect(plan).toEqual({ ...estimate.plan, memory: { ...memory, heldBytes } });

  // The rate of that job tells how long the next one takes.
  const again = await client.estimateTrainingJob(job);
  expect(again.seconds).toBeCloseTo(again.runTokens / 1000);
  expect((await client.estimateTrainingJob({ ...job, gradientCheckpointing: true })).seconds).toBeUndefined();
});

test('packed examples: fewer steps, the same tokens, and the plan, the estimate and the run agree', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const alone = await client.estimateTrainingJob(spec(dataset));
  expect(alone).toMatchObject({ steps: 4, plan: { packing: undefined } });
  const longest = (await client.validateDataset({ dataset, model: 'models/fake' })).longest;
  const packed = spec(dataset, { packing: true, maxSeqLength: 4 * longest });
  const estimate = await client.estimateTrainingJob(packed);
  expect(estimate).toMatchObject({
    steps: 2,
    runTokens: alone.runTokens,
    plan: { packing: { sequences: 1, utilization: 1 } },
  });
  const { name } = await client.createTrainingJob({ spec: packed });
  const events = await all(client.watchTrainingJob(name));
  const plan = events.flatMap(({ event }) => (event?.$case === 'plan' ? [event.value] : []))[0];
  expect(plan?.packing).toEqual(estimate.plan?.packing);
  const steps = events.flatMap(({ event }) => (event?.$case === 'step' ? [event.value] : []));
  expect(steps.map(({ tokens }) => tokens)).toEqual([estimate.plan?.tokens, estimate.plan?.tokens]);
  expect((await client.getTrainingJob(name)).spec).toMatchObject({ packing: true, groupByLength: false });
});

test('groups by length are refused beside what they contradict, by name', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  await client.estimateTrainingJob(spec(dataset, { groupByLength: true }));
  for (const more of [{ shuffle: false }, { packing: true }]) {
    await expect(client.estimateTrainingJob(spec(dataset, { groupByLength: true, ...more }))).rejects.toMatchObject({
      status: 'INVALID_ARGUMENT',
      violations: [{ field: 'spec.group_by_length' }],
    });
  }
});

test('tokens are kept between an estimate, a job and the next server, and made again where they are broken', async () => {
  const first = await start();
  const dataset = await first.upload();
  await first.client.estimateTrainingJob(spec(dataset));
  const folder = join(first.dataDir, 'token-cache');
  const [name = '', ...others] = readdirSync(folder);
  expect(others).toEqual([]);
  const made = statSync(join(folder, name)).ino;
  const train = async (client: LuthierClient): Promise<JobState | undefined> => {
    const job = await client.createTrainingJob({ spec: spec(dataset) });
    return states(await all(client.watchTrainingJob(job.name))).at(-1);
  };
  expect(await train(first.client)).toBe(JobState.JOB_STATE_SUCCEEDED);
  await first.stop();
  const second = await start({ dataDir: first.dataDir });
  expect(await train(second.client)).toBe(JobState.JOB_STATE_SUCCEEDED);
  expect(readdirSync(folder)).toEqual([name]);
  expect(statSync(join(folder, name)).ino).toBe(made);
  truncateSync(join(folder, name), 200);
  expect(await train(second.client)).toBe(JobState.JOB_STATE_SUCCEEDED);
  expect(statSync(join(folder, name)).size).toBeGreaterThan(200);
});

test('layers are recomputed as asked, or as few as fit', async () => {
  const { client, upload } = await start();
  const dataset = await upload();
  const recomputed = async (more: Record<string, unknown>) =>
    (await client.estimateTrainingJob(spec(dataset, more))).plan?.memory?.recomputeLayers;
  expect(await recomputed({})).toBe(0);
  expect(await recomputed({ recomputeLayers: 1 })).toBe(1);
  expect(await recomputed({ recomputeLayers: 99 })).toBe(2);
  expect(await recomputed({ gradientCheckpointing: true })).toBe(2);
  const kept = await client.estimateTrainingJob(spec(dataset));
  const small = await start({ freeBytes: kept.peakBytes - 1 });
  const there = await small.upload();
  expect((await small.client.estimateTrainingJob(spec(there))).plan?.memory?.recomputeLayers).toBe(2);
});

test('a job that does not fit is refused with numbers, its estimate says what would fit, and that runs', async () => {
  const roomy = await start();
  const { peakBytes } = await roomy.client.estimateTrainingJob(spec(await roomy.upload()));
  const { client, upload } = await start({ freeBytes: peakBytes - 1 });
  const job = spec(await upload(), { recomputeLayers: 0 });
  const estimate = await client.estimateTrainingJob(job);
  expect(estimate).toMatchObject({ fits: false, peakBytes });
  expect(estimate.suggestions).toMatchObject([
    { description: 'recompute_layers 2', recomputeLayers: 2 },
    { perDeviceTrainBatchSize: 1, gradientAccumulationSteps: 2 },
  ]);
  for (const { totalBytes } of estimate.suggestions) expect(totalBytes).toBeLessThan(peakBytes);

  const tight = await start({ freeBytes: 100 });
  const refused = spec(await tight.upload());
  const { name } = await tight.client.createTrainingJob({ spec: refused });
  await all(tight.client.watchTrainingJob(name));
  expect(await tight.client.getTrainingJob(name)).toMatchObject({
    state: JobState.JOB_STATE_FAILED,
    failure: { reason: 'OUT_OF_MEMORY', message: expect.stringContaining('100 are free') },
  });

  const { perDeviceTrainBatchSize, gradientAccumulationSteps } = estimate.suggestions[1] ?? {};
  const changed = { ...job, perDeviceTrainBatchSize, gradientAccumulationSteps };
  expect(await client.estimateTrainingJob(changed)).toMatchObject({ fits: true, steps: estimate.steps });
});

test.each([
  [{ model: 'models/none' }, 'MODEL_NOT_FOUND', ''],
  [{ dataset: 'datasets/none' }, 'DATASET_NOT_FOUND', ''],
  [{ perDeviceTrainBatchSize: 0 }, 'INVALID_REQUEST', 'spec.per_device_train_batch_size'],
  [{ gradientCheckpointing: true, recomputeLayers: 1 }, 'INVALID_REQUEST', 'spec.recompute_layers'],
  [{ offloadActivations: true, recomputeLayers: 0 }, 'INVALID_REQUEST', 'spec.offload_activations'],
  [{ offloadActivations: true }, 'INVALID_REQUEST', 'spec.offload_activations'],
  [{ lora: { targetModules: ['nothing'] } }, 'UNKNOWN_TARGET_MODULE', 'spec.lora.target_modules[0]'],
  [{ maxSeqLength: 3 }, 'SEQUENCE_TOO_LONG', ''],
])('an estimate refuses what a job refuses: %j', async (more, reason, field) => {
  const { client, upload } = await start();
  const wrong = client.estimateTrainingJob(spec(await upload(), more));
  await expect(wrong).rejects.toMatchObject({ reason });
  if (field !== '') await expect(wrong).rejects.toMatchObject({ violations: [{ field }] });
});

test('memory that runs out in a step fails the job; the server and the next job go on', async () => {
  let failures = 1;
  const { client, upload } = await start({
    beforeStep: (step) => {
      if (step === 2 && failures-- > 0) throw new EngineError('OUT_OF_MEMORY', 'allocating 7 bytes (5 are free)');
    },
  });
  const dataset = await upload();
  const bad = await client.createTrainingJob({ spec: spec(dataset) });
  const good = await client.createTrainingJob({ spec: spec(dataset) });
  await all(client.watchTrainingJob(bad.name));
  expect(await client.getTrainingJob(bad.name)).toMatchObject({
    state: JobState.JOB_STATE_FAILED,
    failure: { reason: 'OUT_OF_MEMORY', message: 'allocating 7 bytes (5 are free)' },
    lastStep: { globalStep: 1 },
  });
  expect(states(await all(client.watchTrainingJob(good.name))).at(-1)).toBe(JobState.JOB_STATE_SUCCEEDED);
});
