import { expect, onTestFinished, test, vi } from 'vitest';
import { JobState, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { openDatabase } from '../store/database.ts';
import { JobRetention } from './job-retention.ts';
import { SqliteJobStore } from './job-store-sqlite.ts';

const DAY = 24 * 3600 * 1000;
const spec = TrainingSpec.create({ model: 'models/m', dataset: 'datasets/d' });

function setUp(limits: { maxEndedJobs?: number; maxEndedJobDays?: number }) {
  const database = openDatabase(':memory:');
  const store = new SqliteJobStore(database);
  const logger = { info: vi.fn(), warn: vi.fn() };
  const remove = vi.fn(async (_name: string) => undefined);
  const options = { maxEndedJobs: null, maxEndedJobDays: null, ...limits };
  const retention = new JobRetention({
    store,
    metricFiles: { remove },
    checkpoints: { remove: async () => undefined },
    ...options,
    logger,
  });
  onTestFinished(() => retention.close());
  const create = async (end: JobState | null, days = 0): Promise<string> => {
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - days * DAY });
    const { name } = await store.create(spec, '');
    if (end !== null) await store.move(name, end);
    vi.useRealTimers();
    return name;
  };
  onTestFinished(() => void vi.useRealTimers());
  const left = async () => (await store.list(null, 1000, {})).map(({ job }) => job.name).toReversed();
  return { database, store, retention, logger, remove, create, left };
}

const { JOB_STATE_CANCELLED, JOB_STATE_FAILED } = JobState;

test('without limits every job is kept', async () => {
  const { retention, create, left } = setUp({});
  const name = await create(JOB_STATE_CANCELLED, 10_000);
  await retention.pass();
  expect(await left()).toEqual([name]);
});

test('of the jobs that have ended the latest are kept; the others go with their metrics, and the audit says why', async () => {
  const { store, retention, remove, create, left } = setUp({ maxEndedJobs: 2 });
  const [one, waiting, two, three, four] = [
    await create(JOB_STATE_CANCELLED),
    await create(null),
    await create(JOB_STATE_FAILED),
    await create(JOB_STATE_CANCELLED),
    await create(JOB_STATE_CANCELLED),
  ];
  await retention.pass();
  expect(await left()).toEqual([waiting, three, four]);
  expect(remove.mock.calls.flat().toSorted()).toEqual([one, two].toSorted());
  expect((await store.auditEntries(null, 1, two))[0]).toMatchObject({
    job: two,
    from: JOB_STATE_FAILED,
    to: JobState.JOB_STATE_UNSPECIFIED,
    reason: 'RETENTION',
  });
});

test('jobs that ended too long ago are deleted, however few', async () => {
  const { retention, create, left } = setUp({ maxEndedJobDays: 7, maxEndedJobs: 10 });
  await create(JOB_STATE_CANCELLED, 8);
  const names = [await create(JOB_STATE_CANCELLED, 6), await create(null, 30)];
  await retention.pass();
  expect(await left()).toEqual(names);
});

test('more events than one transaction deletes all go; what a crash left behind goes, too', async () => {
  const { database, store, retention, create } = setUp({ maxEndedJobs: 1 });
  const { name } = await store.create(spec, '');
  for (let event = 0; event < 2100; event++) {
    await store.append(name, { $case: 'warning', value: { reason: 'TEST', message: '' } });
  }
  await store.move(name, JOB_STATE_CANCELLED);
  const kept = await create(JOB_STATE_CANCELLED);
  // As if the process had ended behind the first transaction of a deletion.
  database.prepare('INSERT INTO job_events VALUES (?, ?, ?)').run('trainingJobs/gone', 1, new Uint8Array());
  database.prepare('INSERT INTO job_deletions VALUES (?)').run('trainingJobs/gone');
  await retention.pass();
  expect(database.prepare('SELECT DISTINCT job FROM job_events').all()).toEqual([{ job: kept }]);
  expect(database.prepare('SELECT job FROM job_deletions').all()).toEqual([]);
});

test('a job that a client resumes or deletes meanwhile is left to it, and the others go', async () => {
  const { store, retention, logger, create, left } = setUp({ maxEndedJobDays: 1 });
  await create(JOB_STATE_CANCELLED, 2);
  const [deleted, resumed] = [await create(JOB_STATE_CANCELLED, 2), await create(JOB_STATE_FAILED, 2)];
  const remove = store.delete.bind(store);
  vi.spyOn(store, 'delete').mockImplementation(async (name, actor) => {
    if (name === resumed) await store.move(name, JobState.JOB_STATE_QUEUED);
    if (name === deleted) await remove(name);
    return remove(name, actor);
  });
  await retention.pass();
  expect(await left()).toEqual([resumed]);
  expect(logger.warn).not.toHaveBeenCalled();
});

test('a deletion that fails is logged, and the next pass tries again', async () => {
  const { store, retention, logger, create, left } = setUp({ maxEndedJobDays: 1 });
  const name = await create(JOB_STATE_CANCELLED, 2);
  vi.spyOn(store, 'delete').mockRejectedValueOnce(new Error('no space left on device'));
  await retention.pass();
  expect(logger.warn).toHaveBeenCalledTimes(1);
  expect(await left()).toEqual([name]);
  await retention.pass();
  expect(await left()).toEqual([]);
});
