/** The jobs and their events in SQLite. Watchers in this process are told of every change; nothing is polled. */
import { createHash, randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { LuthierError } from '../errors/luthier-error.ts';
import {
  type AuditEntry,
  JobState,
  TrainingEvent,
  TrainingJob,
  TrainingSpec,
} from '../gen/luthier/v1/training_service.ts';
import type { Commit } from '../store/commit.ts';
import type { Database } from '../store/database.ts';
import { transaction } from '../store/transaction.ts';
import { applyEvent } from './apply-event.ts';
import { SqliteJobAudit } from './job-audit-sqlite.ts';
import { SqliteJobLeases } from './job-leases-sqlite.ts';
import { checkEnded, checkState, checkTransition, ENDED, hasEnded, isWorkedOn } from './job-state.ts';
import type {
  Actor,
  AuditLog,
  EventBody,
  EventLog,
  FailureCause,
  JobFilter,
  JobLeases,
  JobStore,
  Lease,
  LoggedEvent,
  NumberedJob,
} from './job-store.ts';

/** The tables, for the database's list of migrations. `payload`: an encoded TrainingJob or TrainingEvent. */
export const JOB_TABLES = `CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  state INTEGER NOT NULL,
  request_id TEXT UNIQUE,
  request_hash TEXT NOT NULL,
  payload BLOB NOT NULL
) STRICT;
CREATE TABLE job_events (
  job TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  payload BLOB NOT NULL,
  PRIMARY KEY (job, sequence)
) STRICT, WITHOUT ROWID`;

/** Labels of jobs, for filters. */
export const JOB_LABEL_TABLE = `CREATE TABLE job_labels (
  job TEXT NOT NULL,
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID`;

/** `TrainingSpec.priority`, for the order of the queue. */
export const JOB_PRIORITY_COLUMN = `ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_by_state ON jobs (state, priority DESC, number)`;

/** Deleted jobs whose events are still there. */
export const JOB_DELETION_TABLE = 'CREATE TABLE job_deletions (job TEXT PRIMARY KEY) STRICT, WITHOUT ROWID';

const PREFIX = 'trainingJobs/';
/** Events read at once for a watcher. */
const PAGE = 256;
/** Events deleted by one transaction. */
const DELETED_AT_ONCE = 1000;

const fullName = (name: string): string => (name.startsWith(PREFIX) ? name : `${PREFIX}${name}`);

const notFound = (name: string): LuthierError =>
  new LuthierError('JOB_NOT_FOUND', `there is no job ${JSON.stringify(name)}`, {
    resource: { type: 'training job', name },
  });

const decode = (payload: unknown): TrainingJob => TrainingJob.decode(payload as Uint8Array);

const decodeEvent = ({ payload }: Record<string, unknown>): TrainingEvent =>
  TrainingEvent.decode(payload as Uint8Array);

/** One after another: a slow reader costs no more than what is stored. */
function* decoded(rows: readonly Record<string, unknown>[]): Generator<TrainingEvent, void, undefined> {
  for (const row of rows) yield decodeEvent(row);
}

/** All but the steps that a later one follows. */
function withLatestStep(rows: readonly Record<string, unknown>[]): TrainingEvent[] {
  const events = rows.map(decodeEvent);
  const latest = events.findLastIndex(({ event }) => event?.$case === 'step');
  return events.filter(({ event }, index) => event?.$case !== 'step' || index === latest);
}

/** What a request id is bound to: SHA-256 of the encoded spec; hex. */
const hashOf = (spec: TrainingSpec): string =>
  createHash('sha256').update(TrainingSpec.encode(spec).finish()).digest('hex');

export class SqliteJobStore implements JobStore, EventLog, JobLeases, AuditLog {
  readonly #database: Database;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  readonly #leases: SqliteJobLeases;
  readonly #audit: SqliteJobAudit;
  readonly #get;
  readonly #state;
  readonly #byRequest;
  readonly #list;
  readonly #queue;
  readonly #counts;
  readonly #insert;
  readonly #update;
  readonly #delete;
  readonly #insertEvent;
  readonly #deleteEvents;
  readonly #deletions;
  readonly #beginDeletion;
  readonly #endDeletion;
  readonly #insertLabel;
  readonly #deleteLabels;
  readonly #event;
  readonly #eventsAfter;

  /** @param clock For leases: milliseconds that never go back, from any origin. */
  constructor(database: Database, clock: () => number = () => performance.now()) {
    this.#database = database;
    this.#leases = new SqliteJobLeases(database, clock);
    this.#audit = new SqliteJobAudit(database);
    this.#get = database.prepare('SELECT payload FROM jobs WHERE name = ?');
    this.#state = database.prepare('SELECT state FROM jobs WHERE name = ?');
    this.#byRequest = database.prepare('SELECT request_hash, payload FROM jobs WHERE request_id = ?');
    this.#list = database.prepare(
      `SELECT number, payload FROM jobs WHERE number < ? AND (? = '[]' OR state IN (SELECT value FROM json_each(?)))
       AND NOT EXISTS (SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS (
         SELECT 1 FROM job_labels WHERE job = jobs.name AND job_labels.name = wanted.key AND job_labels.value = wanted.value))
       ORDER BY number DESC LIMIT ?`,
    );
    this.#queue = database.prepare(
      `SELECT payload FROM jobs WHERE state = ${JobState.JOB_STATE_QUEUED} ORDER BY priority DESC, number LIMIT ?`,
    );
    this.#counts = database.prepare('SELECT state, COUNT(*) AS count FROM jobs GROUP BY state');
    this.#insert = database.prepare(
      'INSERT INTO jobs (name, state, priority, request_id, request_hash, payload) VALUES (?, ?, ?, ?, ?, ?)',
    );
    this.#update = database.prepare('UPDATE jobs SET state = ?, payload = ? WHERE name = ?');
    this.#delete = database.prepare('DELETE FROM jobs WHERE name = ?');
    this.#deleteEvents = database.prepare(
      `DELETE FROM job_events WHERE job = ? AND sequence IN
       (SELECT sequence FROM job_events WHERE job = ? ORDER BY sequence LIMIT ${DELETED_AT_ONCE})`,
    );
    this.#deletions = database.prepare('SELECT job FROM job_deletions');
    this.#beginDeletion = database.prepare('INSERT INTO job_deletions VALUES (?)');
    this.#endDeletion = database.prepare('DELETE FROM job_deletions WHERE job = ?');
    this.#insertLabel = database.prepare('INSERT INTO job_labels VALUES (?, ?, ?)');
    this.#deleteLabels = database.prepare('DELETE FROM job_labels WHERE job = ?');
    this.#insertEvent = database.prepare('INSERT INTO job_events VALUES (?, ?, ?)');
    this.#event = database.prepare('SELECT payload FROM job_events WHERE job = ? AND sequence = ?');
    this.#eventsAfter = database.prepare(
      `SELECT sequence, payload FROM job_events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ${PAGE}`,
    );
  }

  async create(spec: TrainingSpec, requestId: string, actor: Actor = {}): Promise<TrainingJob> {
    const earlier = this.#findRequest(spec, requestId);
    if (earlier) return earlier;
    const job = TrainingJob.create({ name: `${PREFIX}${randomUUID()}`, spec, createTime: new Date() });
    transaction(this.#database, () => {
      const id = requestId === '' ? null : requestId;
      this.#insert.run(job.name, job.state, spec.priority, id, hashOf(spec), TrainingJob.encode(job).finish());
      for (const [label, value] of Object.entries(spec.labels)) this.#insertLabel.run(job.name, label, value);
      this.#store(job, actor, (time) => stateChange(job.state, JobState.JOB_STATE_QUEUED, null, time));
    });
    return this.#read(job.name);
  }

  async findRequest(spec: TrainingSpec, requestId: string): Promise<TrainingJob | null> {
    return this.#findRequest(spec, requestId);
  }

  async get(name: string): Promise<TrainingJob> {
    return this.#read(name);
  }

  async list(
    before: number | null,
    count: number,
    { states = [], labels = {} }: JobFilter,
  ): Promise<readonly NumberedJob[]> {
    const wanted = JSON.stringify(states);
    return this.#list
      .all(before ?? Number.MAX_SAFE_INTEGER, wanted, wanted, JSON.stringify(labels), count)
      .map((row) => ({ job: decode(row.payload), number: Number(row.number) }));
  }

  async delete(
    name: string,
    actor: Actor = {},
    commit: Commit = (change) => transaction(this.#database, change),
  ): Promise<void> {
    let deleted = '';
    commit(() => {
      const job = this.#read(name);
      checkEnded(job.name, job.state);
      this.#note(job.name, new Date(), job.state, JobState.JOB_STATE_UNSPECIFIED, actor);
      this.#beginDeletion.run(job.name);
      this.#deleteLabels.run(job.name);
      this.#leases.delete(job.name);
      this.#delete.run(job.name);
      deleted = job.name;
    });
    this.#changes.emit(deleted);
    await this.#finishDeletion(deleted);
  }

  async finishDeletions(): Promise<void> {
    for (const { job } of this.#deletions.all()) await this.#finishDeletion(String(job));
  }

  async auditEntries(before: number | null, count: number, job: string): Promise<readonly AuditEntry[]> {
    return this.#audit.list(before ?? Number.MAX_SAFE_INTEGER, count, job === '' ? '' : fullName(job));
  }

  async countByState(): Promise<ReadonlyMap<JobState, number>> {
    return new Map(this.#counts.all().map(({ state, count }) => [Number(state) as JobState, Number(count)]));
  }

  async queued(): Promise<readonly TrainingJob[]> {
    return this.#queue.all(-1).map((row) => decode(row.payload));
  }

  async unfinished(): Promise<readonly TrainingJob[]> {
    const states = Object.values(JobState).filter((state): state is JobState => typeof state === 'number');
    const wanted = JSON.stringify(states.filter((state) => !ENDED.includes(state)));
    const rows = this.#list.all(Number.MAX_SAFE_INTEGER, wanted, wanted, '{}', -1);
    return rows.map((row) => decode(row.payload)).reverse();
  }

  async append(name: string, event: LoggedEvent, actor: Actor = {}): Promise<void> {
    this.#change(name, actor, () => event);
  }

  async move(
    name: string,
    to: JobState,
    failure: FailureCause | null = null,
    from?: JobState,
    actor: Actor = {},
  ): Promise<void> {
    this.#change(name, actor, (job, time) => {
      if (from !== undefined) checkState(job.name, job.state, from);
      checkTransition(job.name, job.state, to);
      return stateChange(job.state, to, failure, time);
    });
  }

  async lease(runner: string, ttlMilliseconds: number): Promise<{ job: TrainingJob; lease: Lease } | null> {
    const taken = transaction(this.#database, () => {
      const row = this.#queue.get(1);
      if (!row) return null;
      const job = decode(row.payload);
      const lease = this.#leases.take(job.name, runner, ttlMilliseconds);
      const next = this.#store(job, { lease }, (time) =>
        stateChange(job.state, JobState.JOB_STATE_VALIDATING, null, time),
      );
      return { job: next, lease };
    });
    if (taken) this.#changes.emit(taken.job.name);
    return taken;
  }

  async takeOver(name: string, runner: string, ttlMilliseconds: number): Promise<Lease | null> {
    return transaction(this.#database, () => {
      const job = this.#read(name);
      if (!isWorkedOn(job.state) || !this.#leases.isFree(job.name)) return null;
      return this.#leases.take(job.name, runner, ttlMilliseconds);
    });
  }

  async renew(lease: Lease): Promise<void> {
    this.#leases.renew(lease);
  }

  async endLeases(): Promise<void> {
    this.#leases.endAll();
  }

  async *watch(
    name: string,
    after: number,
    signal: AbortSignal,
    coalesceSteps = false,
  ): AsyncGenerator<TrainingEvent, void, undefined> {
    const job = this.#read(name).name;
    let last = after;
    for (;;) {
      // Looked at before the events: what comes in between is found in the next round.
      const ended = hasEnded(this.#stateOf(job));
      const changed = Promise.withResolvers<void>();
      const wakeUp = (): void => changed.resolve();
      this.#changes.once(job, wakeUp);
      signal.addEventListener('abort', wakeUp);
      try {
        const rows = this.#eventsAfter.all(job, last);
        for (const event of coalesceSteps ? withLatestStep(rows) : decoded(rows)) {
          signal.throwIfAborted();
          last = event.sequence;
          yield event;
        }
        if (rows.length > 0) continue;
        if (ended) return;
        signal.throwIfAborted();
        await changed.promise;
      } finally {
        this.#changes.off(job, wakeUp);
        signal.removeEventListener('abort', wakeUp);
      }
    }
  }

  #findRequest(spec: TrainingSpec, requestId: string): TrainingJob | null {
    const row = requestId === '' ? undefined : this.#byRequest.get(requestId);
    if (!row) return null;
    if (row.request_hash === hashOf(spec)) return decode(row.payload);
    throw new LuthierError('REQUEST_ID_REUSED', `request_id ${requestId} was used for another job; use a new one`, {
      violations: [{ field: 'request_id', description: 'expected one that was not used before', reason: '' }],
    });
  }

  #read(name: string): TrainingJob {
    const row = this.#get.get(fullName(name));
    if (row) return decode(row.payload);
    throw notFound(name);
  }

  /** Without the job itself, which every watcher would decode for every event. */
  #stateOf(fullName: string): JobState {
    const row = this.#state.get(fullName);
    if (row) return Number(row.state) as JobState;
    throw notFound(fullName);
  }

  /** One event, made of the job as it is stored at that moment. */
  #change(name: string, actor: Actor, event: (job: TrainingJob, time: Date) => EventBody): void {
    const job = transaction(this.#database, () => {
      const found = this.#read(name);
      if (actor.lease) this.#leases.check(actor.lease, found.name);
      return this.#store(found, actor, (time) => event(found, time));
    });
    this.#changes.emit(job.name);
  }

  /** @returns The job as it is now. */
  #store(job: TrainingJob, actor: Actor, body: (time: Date) => EventBody): TrainingJob {
    const time = this.#nextTime(job);
    const event = body(time);
    const sequence = job.lastSequence + 1;
    const next = applyEvent(job, event, sequence, time);
    this.#insertEvent.run(job.name, sequence, TrainingEvent.encode({ sequence, time, job: job.name, event }).finish());
    this.#update.run(next.state, TrainingJob.encode(next).finish(), job.name);
    if (!isWorkedOn(next.state)) this.#leases.end(job.name);
    if (event.$case === 'stateChange')
      this.#note(job.name, time, job.state, next.state, actor, event.value.failure?.reason);
    return next;
  }

  #note(job: string, time: Date, from: JobState, to: JobState, { requester, reason }: Actor, failure = ''): void {
    const { peer = '', callId = '' } = requester ?? {};
    this.#audit.add({ time, job, from, to, reason: reason ?? failure, peer, callId });
  }

  /** Takes a deleted job's events away, a few at a time: others wait for each transaction. */
  async #finishDeletion(job: string): Promise<void> {
    while (this.#deleteEvents.run(job, job).changes > 0) await setImmediate();
    this.#endDeletion.run(job);
  }

  /** Now, or the time of the job's last event where the clock was set back since. */
  #nextTime({ name, lastSequence, createTime }: TrainingJob): Date {
    const row = this.#event.get(name, lastSequence);
    const last = row ? TrainingEvent.decode(row.payload as Uint8Array).time : createTime;
    return new Date(Math.max(Date.now(), last?.getTime() ?? 0));
  }
}

function stateChange(from: JobState, to: JobState, failure: FailureCause | null, time: Date): EventBody {
  return { $case: 'stateChange', value: { from, to, failure: failure === null ? undefined : { ...failure, time } } };
}
