/** Databases that earlier versions wrote, with two jobs that ended, one that ran when its server was killed, and one that waited. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { expect, onTestFinished, test } from 'vitest';
import { LuthierClient } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../config/schema.ts';
import { createFakeEngine } from '../engine/fake.ts';
import { JobState, type TrainingEvent, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import { SqliteJobStore } from '../jobs/job-store-sqlite.ts';
import { createLogger } from '../logging/logger.ts';
import { createServer } from '../server.ts';
import { openDatabase } from './database.ts';
import { MIGRATIONS } from './migrations.ts';

/** Written by `test/fixtures/databases/make.mjs`; 4 is the first version that had jobs. */
const WRITTEN = [4, 9];
const { JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_RUNNING, JOB_STATE_QUEUED } = JobState;

const sql = (version: number): string =>
  readFileSync(new URL(`../../test/fixtures/databases/v${version}.sql`, import.meta.url), 'utf8');

/** @returns Its path. */
function restore(version: number): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-migrations-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'luthier.db');
  const database = new DatabaseSync(file);
  database.exec(sql(version));
  database.close();
  return file;
}

const schemaOf = (database: DatabaseSync) =>
  database.prepare('SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name').all();

async function all(events: AsyncIterable<TrainingEvent>): Promise<TrainingEvent[]> {
  const seen: TrainingEvent[] = [];
  for await (const event of events) seen.push(event);
  return seen;
}

test.each(WRITTEN)('migrations until version %i are those that made it', (version) => {
  const then = new DatabaseSync(restore(version));
  const now = openDatabase(':memory:', MIGRATIONS.slice(0, version));
  expect(schemaOf(now)).toEqual(schemaOf(then));
  for (const database of [then, now]) database.close();
});

const steps = WRITTEN.flatMap((written) =>
  Array.from({ length: MIGRATIONS.length - written + 1 }, (_, index): [number, number] => [written, written + index]),
);

test.each(steps)(
  'a database of version %i that version %i opened has everything in this one',
  async (written, version) => {
    const file = restore(written);
    openDatabase(file, MIGRATIONS.slice(0, version)).close();
    const database = openDatabase(file);
    onTestFinished(() => database.close());
    const fresh = openDatabase(':memory:');
    expect(schemaOf(database)).toEqual(schemaOf(fresh));
    fresh.close();
    const store = new SqliteJobStore(database);
    const jobs = (await store.list(null, 10, {})).map(({ job }) => job).toReversed();
    expect(jobs).toMatchObject([
      { state: JOB_STATE_SUCCEEDED, adapter: 'adapters/first', lastStep: { globalStep: expect.any(Number) } },
      { state: JOB_STATE_FAILED, failure: { reason: 'NON_FINITE_LOSS' }, lastStep: { globalStep: 1 } },
      { state: JOB_STATE_RUNNING, lastStep: { globalStep: 1 } },
      { state: JOB_STATE_QUEUED },
    ]);
    const names = jobs.map(({ name }) => name);
    expect((await store.queued()).map(({ name }) => name)).toEqual(names.slice(3));
    expect((await store.unfinished()).map(({ name }) => name)).toEqual(names.slice(2));
    for (const job of jobs.slice(0, 2)) {
      const events = await all(store.watch(job.name, 0, new AbortController().signal));
      expect(events.map(({ sequence }) => sequence)).toEqual(Array.from({ length: job.lastSequence }, (_, i) => i + 1));
      expect(events.filter(({ event }) => event?.$case === 'plan')).toHaveLength(1);
      expect(events.at(-1)).toMatchObject({ job: job.name, event: { value: { to: job.state } } });
    }
    const labelled = (await store.list(null, 10, { labels: { team: 'a' } })).map(({ job }) => job.name);
    expect(labelled).toEqual(written < 9 ? [] : [names[0]]);
    // The numbers go on, and what was asked for once is not done again.
    const next = await store.create(TrainingSpec.create({ ...jobs[0]?.spec, output: 'fifth' }), '');
    expect((await store.list(null, 1, {}))[0]).toMatchObject({ number: 5, job: { name: next.name } });
    const first = jobs[0]?.spec ?? TrainingSpec.create();
    expect((await store.findRequest(first, 'request-1'))?.name).toBe(names[0]);
  },
);

test.each(WRITTEN)('a server goes on with the database of version %i', async (version) => {
  const dataDir = join(restore(version), '..');
  const options = serverConfigSchema.parse({ port: 0, dataDir, threads: 1, models: { fake: '/models/fake' } });
  const logger = createLogger({ level: 'silent', format: 'json' });
  const server = await createServer(options, { engine: createFakeEngine(), logger });
  onTestFinished(() => server.close());
  const client = new LuthierClient({ address: (await server.start()).address });
  onTestFinished(() => client.close());
  const [waited, ran] = (await client.listTrainingJobs()).jobs;
  // Their data set's file is not among what was kept of that server.
  for (const { name = '' } of [ran ?? {}, waited ?? {}]) {
    const events = await all(client.watchTrainingJob(name));
    expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
    expect(events.at(-1)).toMatchObject({ event: { value: { to: JOB_STATE_FAILED } } });
  }
  const changes = async (name = '') =>
    (await client.listAuditEntries({ job: name })).entries.map(({ from, reason }) => [from, reason]).toReversed();
  expect((await changes(ran?.name))[0]).toEqual([JOB_STATE_RUNNING, 'INTERRUPTED']);
  expect((await changes(waited?.name))[0]).toEqual([JOB_STATE_QUEUED, '']);
  expect((await client.listDatasets()).datasets.map(({ name }) => name)).toEqual(['datasets/kept']);
  expect((await client.listAdapters()).adapters.map(({ name }) => name)).toEqual(['adapters/first']);
});
