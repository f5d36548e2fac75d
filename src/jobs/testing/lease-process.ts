/**
 * A runner in a process of its own, for `job-leases.test.ts`: takes jobs up until none waits, and runs each with the given number of events.
 * Standard output: a line of JSON for each job, its name and its token.
 *
 *     node src/jobs/testing/lease-process.ts DATABASE RUNNER EVENTS
 */
import { JobState } from '../../gen/luthier/v1/training_service.ts';
import { openDatabase } from '../../store/database.ts';
import { heldLog } from '../held-log.ts';
import { SqliteJobStore } from '../job-store-sqlite.ts';

const [file = '', runner = '', events = ''] = process.argv.slice(2);
const database = openDatabase(file);
const store = new SqliteJobStore(database);
for (let taken = await store.lease(runner, 60_000); taken; taken = await store.lease(runner, 60_000)) {
  const { name } = taken.job;
  const log = heldLog(store, taken.lease);
  await log.move(name, JobState.JOB_STATE_LOADING);
  await log.move(name, JobState.JOB_STATE_RUNNING);
  for (let event = 0; event < Number(events); event++) {
    await log.append(name, { $case: 'warning', value: { reason: 'TEST', message: runner } });
    await store.renew(taken.lease);
  }
  await log.move(name, JobState.JOB_STATE_SUCCEEDED);
  process.stdout.write(`${JSON.stringify({ name, token: taken.lease.token })}\n`);
}
database.close();
