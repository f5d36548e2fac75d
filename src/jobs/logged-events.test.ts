import { expect, onTestFinished, test } from 'vitest';
import { TrainingEvaluation, TrainingSpec, TrainingStep } from '../gen/luthier/v1/training_service.ts';
import { openDatabase } from '../store/database.ts';
import { SqliteJobStore } from './job-store-sqlite.ts';
import { LoggedResults, readAnnounced } from './logged-events.ts';

const never = new AbortController().signal;
const step = (globalStep: number, loss = globalStep) =>
  TrainingStep.create({ globalStep, loss, gradNorm: 1, learningRate: 0.5 });
const evaluation = (globalStep: number, best = false, loss = 2) =>
  TrainingEvaluation.create({ globalStep, loss, trainerLoss: 3, best });

/** A job with steps 1 to 4 and an evaluation after each second one, the first of them the best. */
async function logged() {
  const database = openDatabase(':memory:');
  onTestFinished(() => database.close());
  const store = new SqliteJobStore(database);
  const { name } = await store.create(TrainingSpec.create({ model: 'models/m' }), '');
  await store.append(name, { $case: 'warning', value: { reason: 'OVER_LENGTH', message: '2 of 3' } });
  await store.append(name, { $case: 'evaluation', value: evaluation(0) });
  for (const at of [1, 2, 3, 4]) {
    await store.append(name, { $case: 'step', value: step(at) });
    if (at % 2 === 0) await store.append(name, { $case: 'evaluation', value: evaluation(at, at === 2) });
  }
  const job = await store.get(name);
  // What comes after the job was taken up is the run's own.
  await store.append(name, { $case: 'step', value: step(5) });
  const read = (from: number | null) => LoggedResults.read(store, job, from, never);
  return { store, job, read };
}

test('what was told once is known', async () => {
  const { store, job } = await logged();
  const announced = await readAnnounced(store, job, never);
  expect(announced.plan).toBe(false);
  expect([...announced.warnings]).toEqual(['OVER_LENGTH: 2 of 3']);
});

test('steps after the checkpoint are compared once; those before it and those of the run itself are not', async () => {
  const { read } = await logged();
  const results = await read(2);
  expect(results.step(step(2))).toBe('new');
  expect(results.step(step(3))).toBe('same');
  expect(results.step(step(3))).toBe('new');
  expect(results.step(step(4, 4.000000000000001))).toEqual({
    difference: 'step 4: loss 4 in its events, 4.000000000000001 now',
  });
  expect(results.step(step(5))).toBe('new');
  expect(results.bestStep).toBe(2);
});

test('numbers that are not finite compare as what they are', async () => {
  const { store, job } = await logged();
  await store.append(job.name, { $case: 'step', value: step(6, Number.NaN) });
  await store.append(job.name, { $case: 'step', value: step(7, -0) });
  const results = await LoggedResults.read(store, await store.get(job.name), 5, never);
  expect(results.step(step(6, Number.NaN))).toBe('same');
  // Events do not carry the sign of zero.
  expect(results.step(step(7, -0))).toBe('same');
});

test('evaluations: of the last step before the checkpoint, too, and from the start that before the first step', async () => {
  const { read } = await logged();
  const resumed = await read(2);
  expect(resumed.evaluation(evaluation(0))).toBe('new');
  expect(resumed.evaluation(evaluation(2))).toBe('same');
  expect(resumed.evaluation(evaluation(4, false, 2.5))).toEqual({
    difference: 'evaluation after step 4: loss 2 in its events, 2.5 now',
  });
  const anew = await read(null);
  expect(anew.evaluation(evaluation(0))).toBe('same');
  expect(anew.step(step(1))).toBe('same');
  expect(anew.bestStep).toBe(0);
});
