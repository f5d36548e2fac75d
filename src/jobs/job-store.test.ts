/** What every store of jobs and events must do. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { JobState, type TrainingEvent, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { openDatabase } from '../store/database.ts';
import type { EventLog, JobStore } from './job-store.ts';
import { SqliteJobStore } from './job-store-sqlite.ts';

type Store = JobStore & EventLog;

const { JOB_STATE_QUEUED, JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING } = JobState;
const { JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED } = JobState;

function open(file = ':memory:'): Store {
  const database = openDatabase(file);
  onTestFinished(() => {
    if (database.isOpen) database.close();
  });
  return new SqliteJobStore(database);
}

const spec = (model = 'models/m'): TrainingSpec => TrainingSpec.create({ model, dataset: 'datasets/d' });
const warning = (message: string) => ({ $case: 'warning' as const, value: { reason: 'TEST', message } });
const never = new AbortController().signal;

async function all(events: AsyncIterable<TrainingEvent>): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

async function run(store: Store, name: string): Promise<void> {
  for (const state of [JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_RUNNING]) await store.move(name, state);
}

test('a job is what its events made of it', async () => {
  const store = open();
  const { name, state } = await store.create(spec(), '');
  expect(state).toBe(JOB_STATE_QUEUED);
  await run(store, name);
  await store.move(name, JOB_STATE_FAILED, { reason: 'NON_FINITE_LOSS', message: 'step 1' });
  const job = await store.get(name);
  expect(job).toMatchObject({
    state: JOB_STATE_FAILED,
    lastSequence: 5,
    failure: { reason: 'NON_FINITE_LOSS', message: 'step 1' },
  });
  expect(job.startTime?.getTime()).toBeLessThanOrEqual(job.endTime?.getTime() ?? 0);
  expect(await store.unfinished()).toEqual([]);
});

test('what the state machine does not have is refused, and nothing is stored', async () => {
  const store = open();
  const { name } = await store.create(spec(), '');
  await expect(store.move(name, JOB_STATE_RUNNING)).rejects.toMatchObject({
    reason: 'INVALID_STATE',
    message: `${name} is QUEUED: expected VALIDATING, PAUSED, FAILED, CANCELLED; found RUNNING`,
  });
  await expect(store.move(name, JOB_STATE_CANCELLED, null, JOB_STATE_RUNNING)).rejects.toMatchObject({
    message: `${name} is QUEUED; expected RUNNING`,
  });
  await store.move(name, JOB_STATE_CANCELLED);
  await expect(store.move(name, JOB_STATE_QUEUED)).rejects.toThrow('is CANCELLED: nothing follows; found QUEUED');
  expect((await store.get(name)).lastSequence).toBe(2);
  await expect(store.append('trainingJobs/none', warning('x'))).rejects.toMatchObject({ reason: 'JOB_NOT_FOUND' });
});

test('two callers cannot both take a job out of the queue', async () => {
  const store = open();
  const { name } = await store.create(spec(), '');
  const claim = (to: JobState) => store.move(name, to, null, JOB_STATE_QUEUED);
  const outcomes = await Promise.allSettled([claim(JOB_STATE_VALIDATING), claim(JOB_STATE_CANCELLED)]);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected']);
});

test('a request id makes one job, also from two calls at once', async () => {
  const store = open();
  const jobs = await Promise.all([store.create(spec(), 'id'), store.create(spec(), 'id')]);
  expect(jobs[0]?.name).toBe(jobs[1]?.name);
  expect((await store.findRequest(spec(), 'id'))?.name).toBe(jobs[0]?.name);
  expect(await store.findRequest(spec(), 'other')).toBeNull();
  await expect(store.create(spec('models/other'), 'id')).rejects.toMatchObject({ reason: 'REQUEST_ID_REUSED' });
  expect(await store.list(null, 10, {})).toHaveLength(1);
});

test('the queue is in order of creation; lists are newest first, by page and state', async () => {
  const store = open();
  const names: string[] = [];
  for (const model of ['models/a', 'models/b', 'models/c']) names.push((await store.create(spec(model), '')).name);
  expect((await store.queued()).map(({ name }) => name)).toEqual(names);
  await store.move(names[1] ?? '', JOB_STATE_CANCELLED);
  expect((await store.queued()).map(({ name }) => name)).toEqual([names[0], names[2]]);
  const first = await store.list(null, 2, {});
  expect(first.map(({ job }) => job.name)).toEqual([names[2], names[1]]);
  const rest = await store.list(first[1]?.number ?? 0, 2, {});
  expect(rest.map(({ job }) => job.name)).toEqual([names[0]]);
  expect((await store.list(null, 10, { states: [JOB_STATE_CANCELLED] })).map(({ job }) => job.name)).toEqual([
    names[1],
  ]);
});

test('a job that has ended is deleted with its events and its request id; others stay, and one that has not ended', async () => {
  const store = open();
  const { name } = await store.create(spec(), 'id');
  const other = await store.create(spec('models/other'), 'other');
  await expect(store.delete(name)).rejects.toMatchObject({
    reason: 'INVALID_STATE',
    message: `${name} is QUEUED; expected SUCCEEDED, FAILED, CANCELLED: wait until it ends, or cancel it first`,
  });
  expect(await store.list(null, 10, {})).toHaveLength(2);
  await store.move(name, JOB_STATE_CANCELLED);
  await store.move(other.name, JOB_STATE_CANCELLED);
  await store.delete(name);
  const gone = { reason: 'JOB_NOT_FOUND' };
  await expect(store.get(name)).rejects.toMatchObject(gone);
  await expect(all(store.watch(name, 0, never))).rejects.toMatchObject(gone);
  await expect(store.delete(name)).rejects.toMatchObject(gone);
  expect((await store.list(null, 10, {})).map(({ job }) => job.name)).toEqual([other.name]);
  expect(await all(store.watch(other.name, 0, never))).toHaveLength(2);
  expect((await store.create(spec('models/new'), 'id')).name).not.toBe(name);
});

test('a watcher of a job that is deleted hears of it', async () => {
  const store = open();
  const { name } = await store.create(spec(), '');
  await store.move(name, JOB_STATE_CANCELLED);
  const watching = store.watch(name, 0, never);
  expect((await watching.next()).value).toMatchObject({ sequence: 1 });
  await store.delete(name);
  await expect(all(watching)).rejects.toMatchObject({ reason: 'JOB_NOT_FOUND' });
});

test('lists are by labels: all of them, with their values; a deleted job leaves none', async () => {
  const store = open();
  const create = async (labels: Record<string, string>) => (await store.create({ ...spec(), labels }, '')).name;
  const [plain, one, both] = [await create({}), await create({ a: '1' }), await create({ a: '1', 'b.c/d': 'é "x"' })];
  const named = async (labels: Record<string, string>, states: JobState[] = []) =>
    (await store.list(null, 10, { labels, states })).map(({ job }) => job.name);
  expect(await named({})).toEqual([both, one, plain]);
  expect(await named({ a: '1' })).toEqual([both, one]);
  expect(await named({ a: '1', 'b.c/d': 'é "x"' })).toEqual([both]);
  expect(await named({ a: '2' })).toEqual([]);
  expect(await named({ a: '1', c: '' })).toEqual([]);
  expect((await store.get(both)).spec?.labels).toEqual({ a: '1', 'b.c/d': 'é "x"' });
  await store.move(one, JOB_STATE_CANCELLED);
  expect(await named({ a: '1' }, [JOB_STATE_CANCELLED])).toEqual([one]);
  await store.delete(one);
  expect(await named({ a: '1' })).toEqual([both]);
});

test('jobs and events are there after the database was closed and opened', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-jobs-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'luthier.db');
  const database = openDatabase(file);
  const before = new SqliteJobStore(database);
  const { name } = await before.create(spec(), 'id');
  await run(before, name);
  await before.append(name, warning('kept'));
  await before.move(name, JOB_STATE_SUCCEEDED);
  const events = await all(before.watch(name, 0, never));
  database.close();
  const after = open(file);
  expect(await all(after.watch(name, 0, never))).toEqual(events);
  expect(events.map(({ sequence }) => sequence)).toEqual([1, 2, 3, 4, 5, 6]);
  expect((await after.create(spec(), 'id')).name).toBe(name);
});

test('a watcher that is ended stops waiting', async () => {
  const store = open();
  const { name } = await store.create(spec(), '');
  const controller = new AbortController();
  const watching = all(store.watch(name, 1, controller.signal));
  controller.abort(new Error('gone'));
  await expect(watching).rejects.toThrow('gone');
});

test('watchers see every event once and in order, however they and the writer take turns', async () => {
  const turns = fc.array(fc.nat(3), { minLength: 1, maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(turns, fc.array(fc.nat(45), { minLength: 1, maxLength: 4 }), async (pauses, starts) => {
      const store = open();
      const { name } = await store.create(spec(), '');
      const watching = starts.map((after) => all(store.watch(name, after, never)));
      await run(store, name);
      for (const [index, pause] of pauses.entries()) {
        await store.append(name, warning(String(index)));
        for (let turn = 0; turn < pause; turn++) await Promise.resolve();
      }
      await store.move(name, JOB_STATE_SUCCEEDED);
      const expected = await all(store.watch(name, 0, never));
      expect(expected.map(({ sequence }) => sequence)).toEqual(expected.map((_, index) => index + 1));
      expect(expected).toHaveLength(pauses.length + 5);
      for (const [index, events] of (await Promise.all(watching)).entries()) {
        expect(events).toEqual(expected.slice(starts[index]));
      }
    }),
    { numRuns: 30 },
  );
});

test('jobs are counted by their state', async () => {
  const store = open();
  expect(await store.countByState()).toEqual(new Map());
  const { name } = await store.create(spec(), '');
  await store.create(spec(), '');
  await run(store, name);
  expect(await store.countByState()).toEqual(
    new Map([
      [JOB_STATE_QUEUED, 1],
      [JOB_STATE_RUNNING, 1],
    ]),
  );
});
