/** Which runner may change a job: over several stores of one database file, as several processes have them. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { JobState, type TrainingEvent, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { openDatabase } from '../store/database.ts';
import { heldLog } from './held-log.ts';
import type { EventLog, JobLeases, JobStore, Lease } from './job-store.ts';
import { SqliteJobStore } from './job-store-sqlite.ts';

type Store = JobStore & EventLog & JobLeases;

const { JOB_STATE_VALIDATING, JOB_STATE_LOADING, JOB_STATE_FAILED, JOB_STATE_QUEUED } = JobState;
const TTL = 100;
const LOST = { reason: 'LEASE_LOST' };
const spec = TrainingSpec.create({ model: 'models/m', dataset: 'datasets/d' });
const warning = (message: string) => ({ $case: 'warning' as const, value: { reason: 'TEST', message } });

/** A clock that stands until it is told to go on; its origin means nothing. */
class TestClock {
  now: number;
  constructor(origin: number) {
    this.now = origin;
  }
}

/** Stores over one file, each with a connection and a clock of its own. */
function openStores(count: number) {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-leases-'));
  const file = join(folder, 'luthier.db');
  const databases = Array.from({ length: count }, () => openDatabase(file));
  // What is tried here is no power cut.
  for (const database of databases) database.exec('PRAGMA synchronous = OFF');
  const clocks = databases.map((_, index) => new TestClock(index * 1e6));
  const stores: Store[] = databases.map(
    (database, index) => new SqliteJobStore(database, () => clocks[index]?.now ?? 0),
  );
  const close = (): void => {
    for (const database of databases) if (database.isOpen) database.close();
    rmSync(folder, { recursive: true, force: true });
  };
  return { stores, clocks, close, file };
}

function open(count: number) {
  const opened = openStores(count);
  onTestFinished(opened.close);
  return opened;
}

async function eventsOf(store: Store, name: string): Promise<TrainingEvent[]> {
  const { lastSequence } = await store.get(name);
  const seen: TrainingEvent[] = [];
  for await (const event of store.watch(name, 0, new AbortController().signal)) {
    seen.push(event);
    if (event.sequence === lastSequence) break;
  }
  return seen;
}

async function taken(store: Store, runner: string) {
  const found = await store.lease(runner, TTL);
  if (!found) throw new Error('no job waits');
  return found;
}

test('a job of the queue goes to one runner, in the order of the queue, and is then VALIDATING', async () => {
  const { stores } = open(2);
  const [one, two] = stores as [Store, Store];
  const low = await one.create({ ...spec, priority: -1 }, '');
  const high = await one.create(spec, '');
  const first = await taken(one, 'a');
  expect(first).toMatchObject({
    job: { name: high.name, state: JOB_STATE_VALIDATING },
    lease: { runner: 'a', token: 1 },
  });
  expect((await taken(two, 'b')).job.name).toBe(low.name);
  expect(await two.lease('b', TTL)).toBeNull();
  expect((await eventsOf(two, high.name)).map(({ event }) => event)).toMatchObject([
    { value: { to: JOB_STATE_QUEUED } },
    { value: { from: JOB_STATE_QUEUED, to: JOB_STATE_VALIDATING } },
  ]);
});

test('a job is taken over once its lease was not renewed for its time; the earlier runner then changes nothing', async () => {
  const { stores, clocks } = open(2);
  const [one, two] = stores as [Store, Store];
  const { name } = await one.create(spec, '');
  expect(await two.takeOver(name, 'b', TTL)).toBeNull();
  const { lease } = await taken(one, 'a');
  const log = heldLog(one, lease);
  const clock = clocks[1] as TestClock;
  expect(await two.takeOver(name, 'b', TTL)).toBeNull();
  clock.now += TTL - 1;
  expect(await two.takeOver(name, 'b', TTL)).toBeNull();
  await one.renew(lease);
  clock.now += TTL;
  // The renewal is seen only now: its time begins.
  expect(await two.takeOver(name, 'b', TTL)).toBeNull();
  clock.now += TTL - 1;
  expect(await two.takeOver(name, 'b', TTL)).toBeNull();
  // Late, but nobody else has it.
  await log.append(name, warning('a'));
  clock.now += 1;
  const over = await two.takeOver(name, 'b', TTL);
  expect(over).toEqual({ job: name, runner: 'b', token: 2 });
  await expect(log.append(name, warning('a'))).rejects.toMatchObject(LOST);
  await expect(log.move(name, JOB_STATE_LOADING)).rejects.toMatchObject(LOST);
  await expect(one.renew(lease)).rejects.toMatchObject(LOST);
  expect((await two.get(name)).state).toBe(JOB_STATE_VALIDATING);
  await heldLog(two, over as Lease).move(name, JOB_STATE_LOADING);
});

test('a lease ends with its job, and is for no other job', async () => {
  const { stores } = open(1);
  const [store] = stores as [Store];
  const { name } = await store.create(spec, '');
  const other = await store.create(spec, '');
  const { lease } = await taken(store, 'a');
  const log = heldLog(store, lease);
  await expect(log.append(other.name, warning('a'))).rejects.toMatchObject(LOST);
  await log.move(name, JOB_STATE_FAILED, { reason: 'TEST', message: '' });
  await expect(log.append(name, warning('a'))).rejects.toMatchObject(LOST);
  await expect(store.renew(lease)).rejects.toMatchObject(LOST);
  expect(await store.takeOver(name, 'b', TTL)).toBeNull();
  await store.delete(name);
  await expect(store.takeOver(name, 'b', TTL)).rejects.toMatchObject({ reason: 'JOB_NOT_FOUND' });
});

test('a server that is alone ends the leases of those before it', async () => {
  const { stores } = open(2);
  const [one, two] = stores as [Store, Store];
  const { name } = await one.create(spec, '');
  const { lease } = await taken(one, 'a');
  await two.endLeases();
  await expect(heldLog(one, lease).append(name, warning('a'))).rejects.toMatchObject(LOST);
  expect(await two.takeOver(name, 'b', TTL)).toMatchObject({ token: 2 });
});

test('times of events do not go back with the clock', async () => {
  const { stores } = open(1);
  const [store] = stores as [Store];
  vi.useFakeTimers({ toFake: ['Date'], now: new Date('2030-01-01T00:00:10Z') });
  onTestFinished(() => void vi.useRealTimers());
  const { name } = await store.create(spec, '');
  vi.setSystemTime(new Date('2030-01-01T00:00:20Z'));
  await store.append(name, warning('before'));
  vi.setSystemTime(new Date('2029-12-31T00:00:00Z'));
  await store.append(name, warning('set back'));
  await store.move(name, JOB_STATE_FAILED, { reason: 'TEST', message: '' });
  vi.setSystemTime(new Date('2030-01-01T00:00:30Z'));
  await store.append(name, warning('after'));
  const seconds = (await eventsOf(store, name)).map(({ time }) => time?.getUTCSeconds());
  expect(seconds).toEqual([10, 20, 20, 20, 30]);
  const { endTime, failure } = await store.get(name);
  expect([endTime, failure?.time]).toEqual([new Date('2030-01-01T00:00:20Z'), new Date('2030-01-01T00:00:20Z')]);
});

const runners = ['a', 'b', 'c'];
const action = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant('take' as const), runner: fc.nat(2) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('renew' as const), runner: fc.nat(2) }) },
  { weight: 5, arbitrary: fc.record({ kind: fc.constant('append' as const), runner: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('move' as const), runner: fc.nat(2) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('wait' as const),
      runner: fc.nat(2),
      time: fc.constantFrom(TTL / 2, TTL, 2 * TTL),
    }),
  },
);

test('however runners lease, renew, lose, move and append: no two ever append to one job', async () => {
  let takenOver = 0;
  let refused = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(action, { minLength: 5, maxLength: 60, size: 'max' }), async (actions) => {
      const { stores, clocks, close } = openStores(runners.length);
      try {
        const [any] = stores as [Store];
        const { name } = await any.create(spec, '');
        // What each runner believes to hold, and who really got the job last.
        const believed: (Lease | null)[] = runners.map(() => null);
        let holder: number | null = null;
        const succeeds = async (work: Promise<void>, runner: number): Promise<void> => {
          const outcome = await work.then(
            () => null,
            (error: { reason: string }) => error.reason,
          );
          expect(outcome).toBe(runner === holder ? null : 'LEASE_LOST');
          if (outcome !== null) refused += 1;
        };
        for (const { kind, runner, ...rest } of actions) {
          const store = stores[runner] as Store;
          const lease = believed[runner] ?? null;
          if (kind === 'wait') (clocks[runner] as TestClock).now += (rest as { time: number }).time;
          else if (kind === 'take') {
            const got: Lease | null =
              (await store.lease(runners[runner] ?? '', TTL))?.lease ??
              (await store.takeOver(name, runners[runner] ?? '', TTL));
            if (got === null) continue;
            expect(got.token).toBe(Math.max(0, ...believed.map((one) => one?.token ?? 0)) + 1);
            if (holder !== null && holder !== runner) takenOver += 1;
            believed[runner] = got;
            holder = runner;
          } else if (lease !== null) {
            const log = heldLog(store, lease);
            if (kind === 'renew') await succeeds(store.renew(lease), runner);
            else if (kind === 'append') await succeeds(log.append(name, warning(String(lease.token))), runner);
            else if ((await store.get(name)).state === JOB_STATE_VALIDATING) {
              await succeeds(log.move(name, JOB_STATE_LOADING), runner);
            }
          }
        }
        const events = await eventsOf(any, name);
        expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
        const tokens = events.flatMap(({ event }) => (event?.$case === 'warning' ? [Number(event.value.message)] : []));
        expect(tokens).toEqual(tokens.toSorted((one, other) => one - other));
      } finally {
        close();
      }
    }),
    { numRuns: 50 },
  );
  // Otherwise nothing was tried.
  expect(takenOver).toBeGreaterThan(0);
  expect(refused).toBeGreaterThan(0);
}, 60_000);

test('two processes share a queue: each job runs once, in one of them', async () => {
  const { stores, file } = open(1);
  const [store] = stores as [Store];
  const names: string[] = [];
  for (let index = 0; index < 12; index++) names.push((await store.create(spec, '')).name);
  const program = fileURLToPath(new URL('./testing/lease-process.ts', import.meta.url));
  const outputs = await Promise.all(
    ['a', 'b'].map(async (runner) => {
      const child = spawn(process.execPath, [program, file, runner, '5'], { stdio: ['ignore', 'pipe', 'inherit'] });
      const [output, [code]] = await Promise.all([text(child.stdout), once(child, 'close')]);
      expect(code).toBe(0);
      return output
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as { name: string; token: number });
    }),
  );
  const ran = outputs.flat();
  expect(ran.map(({ name }) => name).toSorted()).toEqual(names.toSorted());
  for (const { name, token } of ran) {
    expect(token).toBe(1);
    const by = (await eventsOf(store, name)).flatMap(({ event }) =>
      event?.$case === 'warning' ? [event.value.message] : [],
    );
    expect([by.length, new Set(by).size]).toEqual([5, 1]);
  }
}, 60_000);
