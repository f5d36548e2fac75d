/** What happened to jobs and who asked for it, in SQLite: lines are only ever added, each with the change that it tells of. */
import { AuditEntry, type JobState } from '../gen/luthier/v1/training_service.ts';
import type { Database } from '../store/database.ts';

/** The table, for the database's list of migrations. `time`: milliseconds since 1970; states by number, 0: none. */
export const JOB_AUDIT_TABLE = `CREATE TABLE job_audit (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  job TEXT NOT NULL,
  from_state INTEGER NOT NULL,
  to_state INTEGER NOT NULL,
  reason TEXT NOT NULL,
  peer TEXT NOT NULL,
  call_id TEXT NOT NULL
) STRICT;
CREATE INDEX job_audit_by_job ON job_audit (job, number)`;

const COLUMNS = 'number, time, job, from_state, to_state, reason, peer, call_id';

export class SqliteJobAudit {
  readonly #insert;
  readonly #list;
  readonly #listJob;

  constructor(database: Database) {
    this.#insert = database.prepare(
      'INSERT INTO job_audit (time, job, from_state, to_state, reason, peer, call_id) VALUES (?, ?, ?, ?, ?, ?, ?)',
    );
    this.#list = database.prepare(`SELECT ${COLUMNS} FROM job_audit WHERE number < ? ORDER BY number DESC LIMIT ?`);
    this.#listJob = database.prepare(
      `SELECT ${COLUMNS} FROM job_audit WHERE number < ? AND job = ? ORDER BY number DESC LIMIT ?`,
    );
  }

  add({ time, job, from, to, reason, peer, callId }: Omit<AuditEntry, 'entryNumber'>): void {
    this.#insert.run(time?.getTime() ?? 0, job, from, to, reason, peer, callId);
  }

  /** Newest first. @param job Empty: all. */
  list(before: number, count: number, job: string): AuditEntry[] {
    const rows = job === '' ? this.#list.all(before, count) : this.#listJob.all(before, job, count);
    return rows.map((row) =>
      AuditEntry.create({
        entryNumber: Number(row.number),
        time: new Date(Number(row.time)),
        job: String(row.job),
        from: Number(row.from_state) as JobState,
        to: Number(row.to_state) as JobState,
        reason: String(row.reason),
        peer: String(row.peer),
        callId: String(row.call_id),
      }),
    );
  }
}
