import { mkdtempSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, onTestFinished, test, vi } from 'vitest';
import { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import { EngineError } from '../engine/errors.ts';
import { TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { saveIntervalOf, saveLimitOf, saveStepsOf } from './checkpoint-cadence.ts';
import { CheckpointWriter, type CheckpointWriterOptions } from './checkpoint-writer.ts';
import type { LoggedEvent } from './job-store.ts';

afterEach(() => {
  vi.useRealTimers();
});

/** A run whose latest checkpoint is that of `step`, and a writer of its checkpoints. */
function setUp(options: Partial<CheckpointWriterOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-writer-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const events: LoggedEvent[] = [];
  const latest = { step: 0, writing: 0, most: 0, fails: false };
  const run = {
    requestCheckpoint: vi.fn(),
    saveCheckpoint: async (path: string) => {
      const globalStep = latest.step;
      latest.most = Math.max(latest.most, ++latest.writing);
      try {
        if (latest.fails) throw new EngineError('STORAGE_FULL', 'the disk is full');
        await writeFile(join(path, 'state'), 'x');
      } finally {
        latest.writing--;
      }
      return { globalStep, files: [{ name: 'state', bytes: 1, sha256: 'c' }] };
    },
  };
  const store = new CheckpointStore(folder);
  const append = async (_: string, event: LoggedEvent): Promise<void> => void events.push(event);
  const log = { append } as unknown as CheckpointWriterOptions['log'];
  const facts = { job: 'trainingJobs/t', specHash: 'a', baseModelHash: 'b' };
  const logger = { warn: vi.fn() };
  const writer = new CheckpointWriter({
    store,
    log,
    logger,
    run,
    facts,
    interval: null,
    keep: 2,
    useless: [],
    ...options,
  });
  const take = (step: number): void => {
    latest.step = step;
    writer.taken(step);
  };
  const saved = (): number[] =>
    events.flatMap((event) =>
      event.$case === 'checkpointSaved' ? [event.value.checkpoint?.globalStep ?? Number.NaN] : [],
    );
  const warned = (): string[] => events.flatMap((event) => (event.$case === 'warning' ? [event.value.reason] : []));
  return { run, store, writer, latest, take, saved, warned };
}

test('one is written at a time; of those taken meanwhile the latest, once', async () => {
  const { writer, store, latest, take, saved } = setUp();
  for (const step of [1, 2, 3]) take(step);
  await vi.waitFor(() => expect(saved().at(-1)).toBe(3));
  take(4);
  await vi.waitFor(() => expect(saved().at(-1)).toBe(4));
  await writer.close();
  expect(latest.most).toBe(1);
  expect(saved()).toEqual([...new Set(saved())]);
  expect(await store.list('trainingJobs/t')).toHaveLength(2);
});

test('the clock asks for one at each interval, and for none while one is written or after the end', async () => {
  vi.useFakeTimers();
  const { writer, run, take } = setUp({ interval: 1000 });
  vi.advanceTimersByTime(999);
  expect(run.requestCheckpoint).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(run.requestCheckpoint).toHaveBeenCalledTimes(1);
  take(1);
  vi.advanceTimersByTime(3000);
  expect(run.requestCheckpoint).toHaveBeenCalledTimes(1);
  await writer.close();
  vi.advanceTimersByTime(3000);
  expect(run.requestCheckpoint).toHaveBeenCalledTimes(1);
});

test('the time of day may jump', () => {
  vi.useFakeTimers();
  const { run } = setUp({ interval: 1000 });
  vi.setSystemTime(Date.now() - 3_600_000);
  vi.advanceTimersByTime(1000);
  expect(run.requestCheckpoint).toHaveBeenCalledTimes(1);
});

test('failures in a row are one warning; the next failure after a success is another', async () => {
  const { writer, latest, take, saved, warned } = setUp();
  const settle = async (step: number): Promise<void> => {
    take(step);
    await vi.waitFor(() => expect(latest.writing).toBe(0));
    await writer.close();
  };
  latest.fails = true;
  await settle(1);
  await settle(2);
  expect(warned()).toEqual(['CHECKPOINT_NOT_SAVED']);
  latest.fails = false;
  await settle(3);
  latest.fails = true;
  await settle(4);
  expect(saved()).toEqual([3]);
  expect(warned()).toHaveLength(2);
});

test('that of a paused run is written behind the one under way, also where no step came between', async () => {
  const { writer, store, latest, take, saved } = setUp();
  take(5);
  latest.step = 5;
  await writer.paused();
  expect(saved()).toEqual([5, 5]);
  expect((await store.list('trainingJobs/t')).map(({ name }) => name)).toEqual(['t/5-2', 't/5-1']);
});

test.each([
  [{}, null, 60_000, 2],
  [{ saveStrategy: 'interval', saveIntervalSeconds: 5, saveTotalLimit: 3 }, null, 5000, 3],
  [{ saveStrategy: 'steps', saveSteps: 7 }, 7, null, 2],
  // Ten examples: five batches, in groups of two, the last one short.
  [{ saveStrategy: 'epoch', perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2 }, 3, null, 2],
  [{ saveStrategy: 'no' }, null, null, 2],
])('the cadence of %j', (settings, steps, interval, limit) => {
  const spec = TrainingSpec.create(settings);
  expect(saveStepsOf(spec, { examples: 10, packing: null })).toBe(steps);
  expect(saveIntervalOf(spec)).toBe(interval);
  expect(saveLimitOf(spec)).toBe(limit);
});

test('an epoch of packed sequences has as many steps as they make', () => {
  const spec = TrainingSpec.create({ saveStrategy: 'epoch', perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 1 });
  expect(saveStepsOf(spec, { examples: 10, packing: { sequences: 3, utilization: 1 } })).toBe(2);
});
