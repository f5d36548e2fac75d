/**
 * What is kept of training jobs. Interfaces, so that another database can take SQLite's place; asynchronous for the same reason. Every
 * implementation must pass `job-store.test.ts`.
 */
import type { JobState, TrainingEvent, TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Commit } from '../store/commit.ts';

/** What an event says. */
export type EventBody = NonNullable<TrainingEvent['event']>;

/** An event that leaves a job in its state. */
export type LoggedEvent = Exclude<EventBody, { readonly $case: 'stateChange' }>;

/** Why a job failed, as it is stored with the transition. */
export interface FailureCause {
  readonly reason: string;
  readonly message: string;
}

/** A job and its place in the order of creation, from 1. */
export interface NumberedJob {
  readonly job: TrainingJob;
  readonly number: number;
}

/** Which jobs are listed. */
export interface JobFilter {
  /** Empty or left out: all. */
  readonly states?: readonly JobState[];
  /** Only jobs whose spec has all of these with these values; names as the contract allows them. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** The jobs. Every `name` is `trainingJobs/{id}` or a bare id. */
export interface JobStore {
  /**
   * Stores a job as QUEUED, with its first event.
   * @param requestId Empty: always a new job. A repeated one returns the first job.
   * @throws LuthierError REQUEST_ID_REUSED where the id stands for another spec
   */
  create(spec: TrainingSpec, requestId: string): Promise<TrainingJob>;
  /** The job that a request id stands for; null: none. @throws LuthierError REQUEST_ID_REUSED */
  findRequest(spec: TrainingSpec, requestId: string): Promise<TrainingJob | null>;
  /** @throws LuthierError JOB_NOT_FOUND */
  get(name: string): Promise<TrainingJob>;
  /** Newest first. @param before Only jobs with a lower number; null: all. */
  list(before: number | null, count: number, filter: JobFilter): Promise<readonly NumberedJob[]>;
  /**
   * Forgets a job that has ended: its events, and the request id that it was created with, too.
   * @param commit Runs the change, perhaps with others in one transaction.
   * @throws LuthierError JOB_NOT_FOUND, INVALID_STATE
   */
  delete(name: string, commit?: Commit): Promise<void>;
  /** How many jobs are in each state; states that none is in may be left out. */
  countByState(): Promise<ReadonlyMap<JobState, number>>;
  /** Jobs that wait, oldest first. */
  queued(): Promise<readonly TrainingJob[]>;
  /** Jobs that have not ended, oldest first. */
  unfinished(): Promise<readonly TrainingJob[]>;
}

/** The events of the jobs. An event and what it makes of its job are stored as one, and before anybody hears of it. */
export interface EventLog {
  /**
   * Stores an event that leaves the job in its state.
   * @throws LuthierError JOB_NOT_FOUND
   */
  append(name: string, event: LoggedEvent): Promise<void>;
  /**
   * Moves a job on, which is an event too. Two callers cannot both take a job out of one state.
   * @param failure With FAILED.
   * @param from Only where the job is in this state; left out: from whichever it is in.
   * @throws LuthierError JOB_NOT_FOUND, INVALID_STATE
   */
  move(name: string, to: JobState, failure?: FailureCause | null, from?: JobState): Promise<void>;
  /**
   * Every event after a sequence number, once and in order, until the job has ended.
   * @throws LuthierError JOB_NOT_FOUND, also where the job is deleted before its last event was read; the signal's reason
   */
  watch(name: string, after: number, signal: AbortSignal): AsyncGenerator<TrainingEvent, void, undefined>;
}
