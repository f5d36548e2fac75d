import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { JobState, TrainingEvaluation, TrainingSpec, TrainingStep } from '../gen/luthier/v1/training_service.ts';
import { SqliteJobStore } from '../jobs/job-store-sqlite.ts';
import { openDatabase } from '../store/database.ts';
import { MetricFiles } from './metric-files.ts';

const { JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING } = JobState;
const { JOB_STATE_SUCCEEDED, JOB_STATE_FAILED } = JobState;

async function setUp() {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-metrics-'));
  const database = openDatabase(':memory:');
  onTestFinished(() => {
    database.close();
    rmSync(folder, { recursive: true, force: true });
  });
  const store = new SqliteJobStore(database);
  const { name } = await store.create(TrainingSpec.create({ model: 'models/m', dataset: 'datasets/d' }), '');
  const run = join(folder, name.replace('trainingJobs/', ''));
  const open = () => {
    const logger = { warn: vi.fn() };
    const files = new MetricFiles({ folder, store, logger });
    onTestFinished(() => files.close());
    return { files, logger };
  };
  return { folder, store, name, run, open };
}

type Setup = Awaited<ReturnType<typeof setUp>>;

async function begin({ store, name }: Setup): Promise<void> {
  for (const state of [JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING]) await store.move(name, state);
}

const step = (globalStep: number, loss: number) =>
  ({
    $case: 'step',
    value: TrainingStep.create({
      globalStep,
      loss,
      gradNorm: 2,
      learningRate: 1e-4,
      epoch: globalStep / 4,
      tokens: 10,
    }),
  }) as const;

const evaluation = (globalStep: number) =>
  ({ $case: 'evaluation', value: TrainingEvaluation.create({ globalStep, loss: 3, trainerLoss: 3.5 }) }) as const;

/** Every file of a run by its name. */
const contents = (run: string) =>
  Object.fromEntries(readdirSync(run).map((file) => [file, readFileSync(join(run, file)).toString('hex')]));

const lines = (run: string): Record<string, unknown>[] =>
  readFileSync(join(run, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

async function runToEnd(setup: Setup): Promise<void> {
  const { store, name, open } = setup;
  const { files, logger } = open();
  await begin(setup);
  files.follow(name);
  await store.append(name, evaluation(0));
  await store.append(name, step(1, 4));
  await store.append(name, step(2, Number.NaN));
  await store.move(name, JOB_STATE_SUCCEEDED);
  await files.close();
  expect(logger.warn).not.toHaveBeenCalled();
}

test("a job's steps and evaluations are in its files under the names of transformers", async () => {
  const setup = await setUp();
  await runToEnd(setup);
  const [first, second, third, last, ...more] = lines(setup.run);
  expect(first).toMatchObject({ sequence: 5, step: 0, 'eval/loss': 3.5, 'eval/token_loss': 3 });
  expect(second).toMatchObject({ step: 1, 'train/loss': 4, 'train/grad_norm': 2, 'train/learning_rate': 1e-4 });
  expect(third).toMatchObject({ step: 2, 'train/loss': null, 'train/epoch': 0.5, 'train/num_input_tokens_seen': 20 });
  expect(last).toMatchObject({ sequence: 8, state: 'succeeded' });
  expect(more).toEqual([]);
  const files = readdirSync(setup.run).sort();
  expect(files).toEqual([expect.stringMatching(/^events\.out\.tfevents\.\d{10}\.luthier$/), 'metrics.jsonl']);
  expect(readFileSync(join(setup.run, files[0] ?? '')).toString('latin1')).toContain('train/learning_rate');
});

test('files are there while the job runs, and another server makes the same ones again', async () => {
  const setup = await setUp();
  const { store, name, run, open } = setup;
  await begin(setup);
  await store.append(name, step(1, 4));
  const first = open();
  first.files.follow(name);
  first.files.follow(name);
  await vi.waitFor(() => expect(lines(run)).toHaveLength(1));
  // The server ends in the middle of the job.
  await first.files.close();
  const second = open();
  second.files.follow(name);
  await store.append(name, step(2, 3));
  await store.move(name, JOB_STATE_SUCCEEDED);
  await second.files.close();
  expect(lines(run).map((line) => line.step)).toEqual([1, 2, undefined]);
  expect(first.logger.warn).not.toHaveBeenCalled();
});

test('what is missing or cut off is made again, to the byte; what is whole is left alone', async () => {
  const setup = await setUp();
  const { run, open } = setup;
  await runToEnd(setup);
  const expected = contents(run);
  const jsonFile = join(run, 'metrics.jsonl');
  const spoil = [
    () => rmSync(run, { recursive: true }),
    () => truncateSync(jsonFile, 100),
    () => truncateSync(jsonFile, 0),
  ];
  for (const damage of spoil) {
    damage();
    const { files } = open();
    files.catchUp();
    await vi.waitFor(() => expect(contents(run)).toEqual(expected));
    await files.close();
  }
  const eventFile = join(run, readdirSync(run).find((file) => file.startsWith('events')) ?? '');
  writeFileSync(eventFile, 'left alone');
  const { files } = open();
  files.catchUp();
  await files.close();
  expect(readFileSync(eventFile, 'utf8')).toBe('left alone');
});

test('removing ends the writing and deletes the folder; again, it does nothing', async () => {
  const setup = await setUp();
  const { store, name, run, open } = setup;
  const { files, logger } = open();
  await begin(setup);
  await store.append(name, step(1, 4));
  files.follow(name);
  await vi.waitFor(() => expect(lines(run)).toHaveLength(1));
  await files.remove(name);
  await files.remove(name);
  await store.append(name, step(2, 4));
  expect(existsSync(run)).toBe(false);
  expect(logger.warn).not.toHaveBeenCalled();
});

test('a folder that cannot be written is a warning, and the job goes on', async () => {
  const setup = await setUp();
  const { store, name, run, open } = setup;
  writeFileSync(run, 'in the way');
  const { files, logger } = open();
  await begin(setup);
  files.follow(name);
  await vi.waitFor(() => expect(logger.warn).toHaveBeenCalledOnce());
  await store.append(name, step(1, 4));
  await store.move(name, JOB_STATE_SUCCEEDED);
  expect(await store.get(name)).toMatchObject({ state: JOB_STATE_SUCCEEDED });
});

test('files of a job that failed and goes on have what came after, also where it is taken up while they are finished', async () => {
  const setup = await setUp();
  const { store, name, run } = setup;
  const { files } = setup.open();
  files.follow(name);
  await begin(setup);
  await store.append(name, step(1, 4));
  await store.move(name, JOB_STATE_FAILED, { reason: 'OUT_OF_MEMORY', message: 'no' });
  await store.move(name, JOB_STATE_QUEUED);
  files.follow(name);
  await begin(setup);
  await store.append(name, step(2, 3));
  await store.move(name, JOB_STATE_SUCCEEDED);
  await vi.waitFor(() => expect(lines(run).at(-1)).toMatchObject({ state: 'succeeded' }));
  expect(lines(run).map((line) => line.step)).toEqual([1, 2, undefined]);
});

test('files of a job that failed are made again where it went on with another server', async () => {
  const setup = await setUp();
  const { store, name, run } = setup;
  const first = setup.open();
  first.files.follow(name);
  await begin(setup);
  await store.append(name, step(1, 4));
  await store.move(name, JOB_STATE_FAILED, { reason: 'OUT_OF_MEMORY', message: 'no' });
  await first.files.close();
  expect(lines(run).at(-1)).toMatchObject({ state: 'failed' });
  await store.move(name, JOB_STATE_QUEUED);
  await begin(setup);
  await store.append(name, step(2, 3));
  await store.move(name, JOB_STATE_SUCCEEDED);
  setup.open().files.catchUp();
  await vi.waitFor(() => expect(lines(run).at(-1)).toMatchObject({ state: 'succeeded' }));
  expect(lines(run).map((line) => line.step)).toEqual([1, 2, undefined]);
});

test('files of jobs that are gone are swept, also where a server died while it deleted them; other folders stay', async () => {
  const setup = await setUp();
  await runToEnd(setup);
  const gone = join(setup.folder, '0b0e7c52-3b7a-4a52-9d0e-7c3f5a0f7a11');
  const other = join(setup.folder, 'notes');
  for (const folder of [gone, other]) mkdirSync(folder);
  writeFileSync(join(gone, 'metrics.jsonl'), 'x');
  const { files, logger } = setup.open();
  files.catchUp();
  await files.close();
  expect([gone, other, setup.run].map((folder) => existsSync(folder))).toEqual([false, true, true]);
  expect(logger.warn).not.toHaveBeenCalled();
});
