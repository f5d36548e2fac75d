/** The jobs and their events. Every event is stored, with the state it leads to, before anybody hears of it. */
import { createHash, randomUUID } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, TrainingEvent, TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Database } from '../store/database.ts';

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

/** What an event says. */
export type EventBody = NonNullable<TrainingEvent['event']>;

const ENDED: ReadonlySet<JobState> = new Set([
  JobState.JOB_STATE_SUCCEEDED,
  JobState.JOB_STATE_FAILED,
  JobState.JOB_STATE_CANCELLED,
]);

/** True once nothing more will happen to a job. */
export const hasEnded = (state: JobState): boolean => ENDED.has(state);

/** What a job becomes by an event. */
function apply(job: TrainingJob, event: EventBody, sequence: number, time: Date): TrainingJob {
  const next = { ...job, lastSequence: sequence };
  switch (event.$case) {
    case 'stateChange': {
      next.state = event.value.to;
      if (event.value.failure) next.failure = event.value.failure;
      if (event.value.from === JobState.JOB_STATE_QUEUED && !hasEnded(event.value.to)) next.startTime = time;
      if (hasEnded(event.value.to)) next.endTime = time;
      return next;
    }
    case 'step':
      return { ...next, lastStep: event.value };
    case 'evaluation':
      return { ...next, lastEvaluation: event.value };
    case 'adapterSaved':
      return { ...next, adapter: event.value.adapter };
    default:
      return next;
  }
}

const notFound = (name: string): LuthierError =>
  new LuthierError('JOB_NOT_FOUND', `there is no job ${JSON.stringify(name)}`, {
    resource: { type: 'training job', name },
  });

export class JobStore {
  readonly #database: Database;
  readonly #changes = new EventEmitter().setMaxListeners(0);

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * Stores a job as QUEUED.
   * @param requestId Empty: always a new job. A repeated one returns the first job.
   * @throws LuthierError REQUEST_ID_REUSED where the id stands for another spec
   */
  create(spec: TrainingSpec, requestId: string): TrainingJob {
    const hash = this.hashOf(spec);
    const earlier = this.findRequest(requestId, hash);
    if (earlier) return earlier;
    const job = TrainingJob.create({
      name: `trainingJobs/${randomUUID()}`,
      spec,
      createTime: new Date(),
    });
    this.#transaction(() => {
      this.#database
        .prepare('INSERT INTO jobs (name, state, request_id, request_hash, payload) VALUES (?, ?, ?, ?, ?)')
        .run(job.name, job.state, requestId === '' ? null : requestId, hash, TrainingJob.encode(job).finish());
      this.#append(job.name, this.#transition(job, JobState.JOB_STATE_QUEUED));
    });
    return this.get(job.name);
  }

  /** What a request id is bound to: SHA-256 of the encoded spec; hex. */
  hashOf(spec: TrainingSpec): string {
    return createHash('sha256').update(TrainingSpec.encode(spec).finish()).digest('hex');
  }

  /** The job that a request id stands for. @throws LuthierError REQUEST_ID_REUSED */
  findRequest(requestId: string, hash: string): TrainingJob | null {
    if (requestId === '') return null;
    const row = this.#database.prepare('SELECT request_hash, payload FROM jobs WHERE request_id = ?').get(requestId);
    if (!row) return null;
    if (row.request_hash === hash) return this.#decode(row.payload);
    throw new LuthierError('REQUEST_ID_REUSED', `request_id ${requestId} was used for another job; use a new one`, {
      violations: [{ field: 'request_id', description: 'expected one that was not used before', reason: '' }],
    });
  }

  /** @param name `trainingJobs/{id}` or a bare id. @throws LuthierError JOB_NOT_FOUND */
  get(name: string): TrainingJob {
    const full = name.startsWith('trainingJobs/') ? name : `trainingJobs/${name}`;
    const row = this.#database.prepare('SELECT payload FROM jobs WHERE name = ?').get(full);
    if (!row) throw notFound(name);
    return this.#decode(row.payload);
  }

  /** Newest first, older than job `before` (a number; none: all). */
  list(before: number | null, count: number, states: readonly JobState[]): { job: TrainingJob; number: number }[] {
    const rows = this.#database
      .prepare(
        `SELECT number, payload FROM jobs WHERE number < ? AND (? = '[]' OR state IN (SELECT value FROM json_each(?)))
         ORDER BY number DESC LIMIT ?`,
      )
      .all(before ?? Number.MAX_SAFE_INTEGER, JSON.stringify(states), JSON.stringify(states), count);
    return rows.map((row) => ({ job: this.#decode(row.payload), number: Number(row.number) }));
  }

  /** Jobs in any of the states, oldest first. */
  inStates(...states: readonly JobState[]): TrainingJob[] {
    return this.list(null, -1, states)
      .map(({ job }) => job)
      .reverse();
  }

  /** Jobs that have not ended. */
  unfinished(): TrainingJob[] {
    return this.#database
      .prepare('SELECT payload FROM jobs WHERE state NOT IN (?, ?, ?)')
      .all(...ENDED)
      .map((row) => this.#decode(row.payload));
  }

  /** Stores an event and what it makes of the job, then tells who watches. */
  append(name: string, event: EventBody): void {
    this.#transaction(() => this.#append(name, event));
    this.#changes.emit(name);
  }

  /** Moves a job on. */
  move(name: string, to: JobState, failure?: { readonly reason: string; readonly message: string }): void {
    const time = new Date();
    this.append(name, this.#transition(this.get(name), to, failure && { ...failure, time }));
  }

  /** Every event after a sequence number, as they are stored, until the job has ended. */
  async *watch(name: string, after: number, signal: AbortSignal): AsyncGenerator<TrainingEvent, void, undefined> {
    const job = this.get(name).name;
    const select = this.#database.prepare(
      'SELECT sequence, payload FROM job_events WHERE job = ? AND sequence > ? ORDER BY sequence LIMIT 256',
    );
    let last = after;
    for (;;) {
      // Looked at before the events: what comes in between is found in the next round.
      const ended = hasEnded(this.get(job).state);
      const changed = Promise.withResolvers<void>();
      this.#changes.once(job, changed.resolve);
      try {
        const rows = select.all(job, last);
        for (const row of rows) {
          last = Number(row.sequence);
          yield TrainingEvent.decode(row.payload as Uint8Array);
          signal.throwIfAborted();
        }
        if (rows.length > 0) continue;
        if (ended) return;
        signal.addEventListener('abort', () => changed.resolve(), { once: true });
        await changed.promise;
        signal.throwIfAborted();
      } finally {
        this.#changes.off(job, changed.resolve);
      }
    }
  }

  #transition(job: TrainingJob, to: JobState, failure?: TrainingJob['failure']): EventBody {
    return { $case: 'stateChange', value: { from: job.state, to, failure } };
  }

  #append(name: string, event: EventBody): void {
    const job = this.get(name);
    const time = new Date();
    const sequence = job.lastSequence + 1;
    const next = apply(job, event, sequence, time);
    const stored = TrainingEvent.encode({ sequence, time, job: name, event }).finish();
    this.#database.prepare('INSERT INTO job_events VALUES (?, ?, ?)').run(name, sequence, stored);
    this.#database
      .prepare('UPDATE jobs SET state = ?, payload = ? WHERE name = ?')
      .run(next.state, TrainingJob.encode(next).finish(), name);
  }

  #decode(payload: unknown): TrainingJob {
    return TrainingJob.decode(payload as Uint8Array);
  }

  #transaction(action: () => void): void {
    this.#database.exec('BEGIN IMMEDIATE');
    try {
      action();
      this.#database.exec('COMMIT');
    } catch (error) {
      this.#database.exec('ROLLBACK');
      throw error;
    }
  }
}
