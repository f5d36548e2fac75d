/**
 * Who runs which job, in SQLite. Every change here is part of a transaction of the store's.
 *
 * No time is stored: a lease counts its renewals, and who wants another runner's job watches them with its own monotonic clock. A wall clock
 * that jumps, or differs between machines, thus neither ends a lease nor keeps one alive.
 */
import { LuthierError } from '../errors/luthier-error.ts';
import type { Database } from '../store/database.ts';
import type { Lease } from './job-store.ts';

/** The table, for the database's list of migrations. `runner`: null once the lease has ended; `token` then still counts on. */
export const JOB_LEASE_TABLE = `CREATE TABLE job_leases (
  job TEXT PRIMARY KEY,
  runner TEXT,
  token INTEGER NOT NULL,
  ttl_milliseconds INTEGER NOT NULL,
  renewals INTEGER NOT NULL
) STRICT, WITHOUT ROWID`;

/** A lease as it was when this store first saw it so. */
interface Sighting {
  readonly token: number;
  readonly renewals: number;
  /** Of the monotonic clock. */
  readonly since: number;
}

export class SqliteJobLeases {
  readonly #clock: () => number;
  readonly #sightings = new Map<string, Sighting>();
  readonly #get;
  readonly #take;
  readonly #renew;
  readonly #end;
  readonly #endAll;
  readonly #delete;

  /** @param clock Milliseconds that never go back, from any origin. */
  constructor(database: Database, clock: () => number) {
    this.#clock = clock;
    this.#get = database.prepare('SELECT runner, token, ttl_milliseconds, renewals FROM job_leases WHERE job = ?');
    this.#take = database.prepare(
      `INSERT INTO job_leases VALUES (?, ?, 1, ?, 0) ON CONFLICT (job) DO UPDATE
       SET runner = excluded.runner, token = token + 1, ttl_milliseconds = excluded.ttl_milliseconds, renewals = 0
       RETURNING token`,
    );
    this.#renew = database.prepare(
      'UPDATE job_leases SET renewals = renewals + 1 WHERE job = ? AND runner = ? AND token = ?',
    );
    this.#end = database.prepare('UPDATE job_leases SET runner = NULL WHERE job = ?');
    this.#endAll = database.prepare('UPDATE job_leases SET runner = NULL');
    this.#delete = database.prepare('DELETE FROM job_leases WHERE job = ?');
  }

  /** Gives a job to a runner, whoever held it before. */
  take(job: string, runner: string, ttlMilliseconds: number): Lease {
    this.#sightings.delete(job);
    return { job, runner, token: Number(this.#take.get(job, runner, ttlMilliseconds)?.token) };
  }

  /** Whether nobody holds a job: no lease, or one that was not renewed for its time, as long as this store looks at it. */
  isFree(job: string): boolean {
    const row = this.#get.get(job);
    if (!row || row.runner === null) return true;
    const [token, renewals] = [Number(row.token), Number(row.renewals)];
    const seen = this.#sightings.get(job);
    if (seen?.token === token && seen.renewals === renewals) {
      return this.#clock() - seen.since >= Number(row.ttl_milliseconds);
    }
    this.#sightings.set(job, { token, renewals, since: this.#clock() });
    return false;
  }

  /** @throws LuthierError LEASE_LOST */
  renew(lease: Lease): void {
    if (this.#renew.run(lease.job, lease.runner, lease.token).changes === 0) throw lost(lease);
  }

  /** @throws LuthierError LEASE_LOST */
  check(lease: Lease, job: string): void {
    const row = this.#get.get(job);
    if (lease.job !== job || row?.runner !== lease.runner || row.token !== lease.token) throw lost(lease);
  }

  /** Nobody holds the job from now on. */
  end(job: string): void {
    this.#end.run(job);
    this.#sightings.delete(job);
  }

  endAll(): void {
    this.#endAll.run();
    this.#sightings.clear();
  }

  /** Forgets a job that is deleted. */
  delete(job: string): void {
    this.#delete.run(job);
    this.#sightings.delete(job);
  }
}

const lost = ({ job, runner }: Lease): LuthierError =>
  new LuthierError('LEASE_LOST', `${job} is no longer held by runner ${runner}; nothing of what it does now is stored`);
