/**
 * What is kept of training jobs. Interfaces, so that another database can take SQLite's place; asynchronous for the same reason. Every
 * implementation must pass `job-store.test.ts`.
 */
import type {
  AuditEntry,
  JobState,
  TrainingEvent,
  TrainingJob,
  TrainingSpec,
} from '../gen/luthier/v1/training_service.ts';
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

/**
 * A runner's hold on a job. The token grows with every runner that gets the job, so that what an earlier one still does is told from what the
 * present one does.
 */
export interface Lease {
  readonly job: string;
  /** An id that no other runner has. */
  readonly runner: string;
  readonly token: number;
}

/** The call that asked for a change. */
export interface Requester {
  /** The client's address as the transport gives it. */
  readonly peer: string;
  /** In the server's log. */
  readonly callId: string;
}

/** Who changes a job, and why. */
export interface Actor {
  /** Of the runner that does it; left out: no runner does. */
  readonly lease?: Lease;
  /** Left out: no call asked for it. */
  readonly requester?: Requester | undefined;
  /** For the audit; left out: as a failure says, or nothing. */
  readonly reason?: string;
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
  create(spec: TrainingSpec, requestId: string, actor?: Actor): Promise<TrainingJob>;
  /** The job that a request id stands for; null: none. @throws LuthierError REQUEST_ID_REUSED */
  findRequest(spec: TrainingSpec, requestId: string): Promise<TrainingJob | null>;
  /** @throws LuthierError JOB_NOT_FOUND */
  get(name: string): Promise<TrainingJob>;
  /** Newest first. @param before Only jobs with a lower number; null: all. */
  list(before: number | null, count: number, filter: JobFilter): Promise<readonly NumberedJob[]>;
  /**
   * Forgets a job that has ended: its events, and the request id that it was created with, too; its audit entries stay. The job is gone at
   * once, its events are taken away by and by.
   * @param commit Runs the change, perhaps with others in one transaction.
   * @throws LuthierError JOB_NOT_FOUND, INVALID_STATE
   */
  delete(name: string, actor?: Actor, commit?: Commit): Promise<void>;
  /** Takes away what deletions left behind that a crash cut short. */
  finishDeletions(): Promise<void>;
  /** How many jobs are in each state; states that none is in may be left out. */
  countByState(): Promise<ReadonlyMap<JobState, number>>;
  /** Jobs that wait, in the order in which they run: by priority, the highest first, then the oldest first. */
  queued(): Promise<readonly TrainingJob[]>;
  /** Jobs that have not ended, oldest first. */
  unfinished(): Promise<readonly TrainingJob[]>;
}

/** What happened to jobs: every creation, transition and deletion, stored with the change itself. Nothing is ever taken away. */
export interface AuditLog {
  /** Newest first. @param before Only entries with a lower number; null: all. @param job Empty: of all jobs. */
  auditEntries(before: number | null, count: number, job: string): Promise<readonly AuditEntry[]>;
}

/** Who runs which job: of any number of runners, one at a time. */
export interface JobLeases {
  /**
   * Gives the next job of the queue to a runner and moves it to VALIDATING, as one change; null: none waits. The lease ends where the
   * job ends, is paused, or goes back into the queue.
   * @param ttlMilliseconds How long the runner may go without renewing it before another one may have the job.
   */
  lease(runner: string, ttlMilliseconds: number): Promise<{ readonly job: TrainingJob; readonly lease: Lease } | null>;
  /**
   * Gives a job that is worked on to a runner, where nobody holds it; else null. Somebody does whose lease was renewed
   * within its time, which is counted from when this store first saw that renewal, by a clock that no change of the date moves: ask again.
   * @throws LuthierError JOB_NOT_FOUND
   */
  takeOver(name: string, runner: string, ttlMilliseconds: number): Promise<Lease | null>;
  /** To be done well within the lease's time. @throws LuthierError LEASE_LOST */
  renew(lease: Lease): Promise<void>;
  /** Ends every lease: for a server that knows that no other runner lives. */
  endLeases(): Promise<void>;
}

/** The events of the jobs. An event and what it makes of its job are stored as one, and before anybody hears of it. */
export interface EventLog {
  /**
   * Stores an event that leaves the job in its state. Times of a job's events never decrease: where the clock was set back, an event has the
   * time of the one before.
   * @throws LuthierError JOB_NOT_FOUND; LEASE_LOST where the actor's lease is not the job's
   */
  append(name: string, event: LoggedEvent, actor?: Actor): Promise<void>;
  /**
   * Moves a job on, which is an event too. Two callers cannot both take a job out of one state.
   * @param failure With FAILED.
   * @param from Only where the job is in this state; left out: from whichever it is in.
   * @throws LuthierError JOB_NOT_FOUND, INVALID_STATE; LEASE_LOST as `append`
   */
  move(name: string, to: JobState, failure?: FailureCause | null, from?: JobState, actor?: Actor): Promise<void>;
  /**
   * Every event after a sequence number, once and in order, until the job has ended. A reader that does not ask for the next one costs a page of
   * events and nothing else.
   * @param coalesceSteps Of the steps that the reader is behind, only the latest of each page.
   * @throws LuthierError JOB_NOT_FOUND, also where the job is deleted before its last event was read; the signal's reason
   */
  watch(
    name: string,
    after: number,
    signal: AbortSignal,
    coalesceSteps?: boolean,
  ): AsyncGenerator<TrainingEvent, void, undefined>;
}
