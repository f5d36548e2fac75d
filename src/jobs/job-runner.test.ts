/** What the queue does where the store or an earlier server failed. Jobs that run are tested over gRPC. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { expect, onTestFinished, test, vi } from 'vitest';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import type { TokenCache } from '../datasets/token-cache.ts';
import { createFakeEngine } from '../engine/fake.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { openDatabase } from '../store/database.ts';
import { JobRunner } from './job-runner.ts';
import { hasEnded } from './job-state.ts';
import { SqliteJobStore } from './job-store-sqlite.ts';
import { MeasuredRates } from './measured-rates.ts';

/** Refuses the first transitions to an end, as a full disk does. */
class FullStore extends SqliteJobStore {
  refusals = 2;

  override async move(...parameters: Parameters<SqliteJobStore['move']>): Promise<void> {
    if (hasEnded(parameters[1]) && this.refusals-- > 0) {
      throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
    }
    return super.move(...parameters);
  }
}

function setUp(adapters: Partial<ManagedAdapterStore> = {}, opened = (): void => {}) {
  const folder = mkdtempSync(`${tmpdir()}/luthier-runner-`);
  const store = new FullStore(openDatabase(':memory:'));
  const datasets: Partial<DatasetStore> = {
    open: () => {
      opened();
      throw new LuthierError('DATASET_NOT_FOUND', 'gone');
    },
  };
  const logger = { info: vi.fn(), warn: vi.fn(), error: vi.fn() };
  const runner = new JobRunner({
    store,
    engine: createFakeEngine(),
    registry: { checkFiles: async () => undefined } as unknown as ModelRegistry,
    datasets: datasets as DatasetStore,
    tokenCache: {} as TokenCache,
    adapters: { has: () => false, ...adapters } as ManagedAdapterStore,
    folder,
    checkpoints: new CheckpointStore(folder),
    modelRoots: [],
    rates: new MeasuredRates(),
    maxConcurrentJobs: 1,
    logger,
  });
  onTestFinished(async () => {
    await runner.close();
    rmSync(folder, { recursive: true, force: true });
  });
  return { store, runner, logger };
}

const spec = TrainingSpec.create({ model: 'models/m', dataset: 'datasets/d' });

test('a job whose end cannot be stored is tried again until it can, and then the next one runs', async () => {
  const { store, runner, logger } = setUp();
  const first = await store.create(spec, '');
  const second = await store.create(spec, '');
  await runner.start();
  await vi.waitFor(async () => expect((await store.get(second.name)).state).toBe(JobState.JOB_STATE_FAILED), {
    timeout: 10_000,
    interval: 20,
  });
  expect(await store.get(first.name)).toMatchObject({ failure: { reason: 'DATASET_NOT_FOUND', message: 'gone' } });
  expect(logger.error).toHaveBeenCalledTimes(2);
});

test('a job whose adapter is stored when its last events cannot be has succeeded, once there is room', async () => {
  const saved = { name: 'adapters/kept', sizeBytes: 7, info: { sha256: 'abc' } } as ReturnType<
    ManagedAdapterStore['get']
  >;
  let isSaved = false;
  const { store, runner, logger } = setUp({ has: () => isSaved, get: () => saved }, () => {
    isSaved = true;
  });
  const { name } = await store.create(spec, '');
  await runner.start();
  await vi.waitFor(async () => expect((await store.get(name)).state).toBe(JobState.JOB_STATE_SUCCEEDED), {
    timeout: 10_000,
    interval: 20,
  });
  expect(await store.get(name)).toMatchObject({ adapter: 'adapters/kept', failure: undefined });
  const events: unknown[] = [];
  for await (const { event } of store.watch(name, 0, new AbortController().signal)) events.push(event?.$case);
  expect(events.filter((kind) => kind === 'adapterSaved')).toHaveLength(1);
  expect(logger.error).toHaveBeenCalledTimes(2);
});

test('a job that a dead server left behind its stored adapter has succeeded; one without goes on', async () => {
  const saved = { name: 'adapters/kept', sizeBytes: 7, info: { sha256: 'abc' } } as ReturnType<
    ManagedAdapterStore['get']
  >;
  const names: string[] = [];
  const { store, runner } = setUp({ has: (name) => name === names[0], get: () => saved });
  store.refusals = 0;
  for (let index = 0; index < 2; index++) {
    const { name } = await store.create(spec, '');
    for (const state of [JobState.JOB_STATE_VALIDATING, JobState.JOB_STATE_LOADING, JobState.JOB_STATE_RUNNING]) {
      await store.move(name, state);
    }
    names.push(name);
  }
  await runner.start();
  expect(await store.get(names[0] ?? '')).toMatchObject({
    state: JobState.JOB_STATE_SUCCEEDED,
    adapter: 'adapters/kept',
  });
  // Here its data set is gone.
  await vi.waitFor(async () =>
    expect(await store.get(names[1] ?? '')).toMatchObject({ failure: { reason: 'DATASET_NOT_FOUND' } }),
  );
});
