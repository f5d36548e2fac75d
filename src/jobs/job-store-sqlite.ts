/** The jobs and their events in SQLite. Watchers in this process are told of every change; nothing is polled. */
import { createHash, randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, TrainingEvent, TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Database } from '../store/database.ts';
import { transaction } from '../store/transaction.ts';
import { applyEvent } from './apply-event.ts';
import { checkEnded, checkState, checkTransition, ENDED, hasEnded } from './job-state.ts';
import type { EventBody, EventLog, FailureCause, JobFilter, JobStore, LoggedEvent, NumberedJob } from './job-store.ts';

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

const PREFIX = 'trainingJobs/';
/** Events read at once for a watcher. */
const PAGE = 256;

const decode = (payload: unknown): TrainingJob => TrainingJob.decode(payload as Uint8Array);

/** What a request id is bound to: SHA-256 of the encoded spec; hex. */
const hashOf = (spec: TrainingSpec): string =>
  createHash('sha256').update(TrainingSpec.encode(spec).finish()).digest('hex');

export class SqliteJobStore implements JobStore, EventLog {
  readonly #database: Database;
  readonly #changes = new EventEmitter().setMaxListeners(0);
  readonly #get;
  readonly #byRequest;
  readonly #list;
  readonly #counts;
  readonly #insert;
  readonly #update;
  readonly #delete;
  readonly #insertEvent;
  readonly #deleteEvents;
  readonly #insertLabel;
  readonly #deleteLabels;
  readonly #eventsAfter;

  constructor(database: Database) {
    this.#database = database;
    this.#get = database.prepare('SELECT payload FROM jobs WHERE name = ?');
    this.#byRequest = database.prepare('SELECT request_hash, payload FROM jobs WHERE request_id = ?');
    this.#list = database.prepare(
      `SELECT number, payload FROM jobs WHERE number < ? AND (? = '[]' OR state IN (SELECT value FROM json_each(?)))
       AND NOT EXISTS (SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS (
         SELECT 1 FROM job_labels WHERE job = jobs.name AND job_labels.name = wanted.key AND job_labels.value = wanted.value))
       ORDER BY number DESC LIMIT ?`,
    );
    this.#counts = database.prepare('SELECT state, COUNT(*) AS count FROM jobs GROUP BY state');
    this.#insert = database.prepare(
      'INSERT INTO jobs (name, state, request_id, request_hash, payload) VALUES (?, ?, ?, ?, ?)',
    );
    this.#update = database.prepare('UPDATE jobs SET state = ?, payload = ? WHERE name = ?');
    this.#delete = database.prepare('DELETE FROM jobs WHERE name = ?');
    this.#deleteEvents = database.prepare('DELETE FROM job_events WHERE job = ?');
    this.#insertLabel = database.prepare('INSERT INTO job_labels VALUES (?, ?, ?)');
    this.#deleteLabels = database.prepare('DELETE FROM job_labels WHERE job = ?');
    this.#insertEvent = database.prepare('INSERT INTO job_events VALUES (?, ?, ?)');
    this.#eventsAfter = database.prepare(
      `SELECT sequence, payload FROM job_events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT ${PAGE}`,
    );
  }

  async create(spec: TrainingSpec, requestId: string): Promise<TrainingJob> {
    const earlier = this.#findRequest(spec, requestId);
    if (earlier) return earlier;
    const job = TrainingJob.create({ name: `${PREFIX}${randomUUID()}`, spec, createTime: new Date() });
    transaction(this.#database, () => {
      const id = requestId === '' ? null : requestId;
      this.#insert.run(job.name, job.state, id, hashOf(spec), TrainingJob.encode(job).finish());
      for (const [label, value] of Object.entries(spec.labels)) this.#insertLabel.run(job.name, label, value);
      this.#store(job, stateChange(job.state, JobState.JOB_STATE_QUEUED, null));
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

  async delete(name: string, commit = (change: () => void) => transaction(this.#database, change)): Promise<void> {
    commit(() => {
      const job = this.#read(name);
      checkEnded(job.name, job.state);
      this.#deleteEvents.run(job.name);
      this.#deleteLabels.run(job.name);
      this.#delete.run(job.name);
    });
  }

  async countByState(): Promise<ReadonlyMap<JobState, number>> {
    return new Map(this.#counts.all().map(({ state, count }) => [Number(state) as JobState, Number(count)]));
  }

  async queued(): Promise<readonly TrainingJob[]> {
    return this.#oldestFirst([JobState.JOB_STATE_QUEUED]);
  }

  async unfinished(): Promise<readonly TrainingJob[]> {
    const states = Object.values(JobState).filter((state): state is JobState => typeof state === 'number');
    return this.#oldestFirst(states.filter((state) => !ENDED.includes(state)));
  }

  async append(name: string, event: LoggedEvent): Promise<void> {
    this.#change(name, () => event);
  }

  async move(name: string, to: JobState, failure: FailureCause | null = null, from?: JobState): Promise<void> {
    this.#change(name, (job) => {
      if (from !== undefined) checkState(job.name, job.state, from);
      checkTransition(job.name, job.state, to);
      return stateChange(job.state, to, failure);
    });
  }

  async *watch(name: string, after: number, signal: AbortSignal): AsyncGenerator<TrainingEvent, void, undefined> {
    const job = this.#read(name).name;
    let last = after;
    for (;;) {
      // Looked at before the events: what comes in between is found in the next round.
      const ended = hasEnded(this.#read(job).state);
      const changed = Promise.withResolvers<void>();
      const wakeUp = (): void => changed.resolve();
      this.#changes.once(job, wakeUp);
      signal.addEventListener('abort', wakeUp);
      try {
        const rows = this.#eventsAfter.all(job, last);
        for (const row of rows) {
          signal.throwIfAborted();
          last = Number(row.sequence);
          yield TrainingEvent.decode(row.payload as Uint8Array);
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

  #oldestFirst(states: readonly JobState[]): TrainingJob[] {
    const wanted = JSON.stringify(states);
    const rows = this.#list.all(Number.MAX_SAFE_INTEGER, wanted, wanted, '{}', -1);
    return rows.map((row) => decode(row.payload)).reverse();
  }

  #read(name: string): TrainingJob {
    const row = this.#get.get(name.startsWith(PREFIX) ? name : `${PREFIX}${name}`);
    if (row) return decode(row.payload);
    throw new LuthierError('JOB_NOT_FOUND', `there is no job ${JSON.stringify(name)}`, {
      resource: { type: 'training job', name },
    });
  }

  /** One event, made of the job as it is stored at that moment. */
  #change(name: string, event: (job: TrainingJob) => EventBody): void {
    const job = transaction(this.#database, () => {
      const found = this.#read(name);
      this.#store(found, event(found));
      return found;
    });
    this.#changes.emit(job.name);
  }

  #store(job: TrainingJob, event: EventBody): void {
    const time = new Date();
    const sequence = job.lastSequence + 1;
    const next = applyEvent(job, event, sequence, time);
    this.#insertEvent.run(job.name, sequence, TrainingEvent.encode({ sequence, time, job: job.name, event }).finish());
    this.#update.run(next.state, TrainingJob.encode(next).finish(), job.name);
  }
}

function stateChange(from: JobState, to: JobState, failure: FailureCause | null): EventBody {
  const value = { from, to, failure: failure === null ? undefined : { ...failure, time: new Date() } };
  return { $case: 'stateChange', value };
}
