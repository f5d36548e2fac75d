/** A job's events over as many streams as it takes. */
import { Backoff, type RetryOptions } from './backoff.ts';
import type { CallOptions } from './call.ts';
import { LuthierError, toLuthierError } from './error.ts';
import { JobState, type TrainingEvent } from './gen/luthier/v1/training_service.ts';
import { Status } from './status.ts';

const TERMINAL: readonly JobState[] = [
  JobState.JOB_STATE_SUCCEEDED,
  JobState.JOB_STATE_FAILED,
  JobState.JOB_STATE_CANCELLED,
];

/** Whether a job in this state has ended. */
export const isTerminal = (state: JobState): boolean => TERMINAL.includes(state);

/** Told to a caller each time a stream was lost and will be opened again. */
export type ReattachListener = (error: LuthierError, afterSequence: number) => void;

export interface AttachOptions extends CallOptions {
  /** Events after this sequence number; default 0: all. */
  readonly afterSequence?: number;
  readonly retry?: RetryOptions | undefined;
  readonly onReattach?: ReattachListener | undefined;
}

/**
 * The error as one to repeat, where the stream was reset rather than answered: a server that is closed by force resets its
 * streams, which arrives as CANCELLED or INTERNAL without a reason.
 */
function asLost(error: LuthierError, signal: AbortSignal | undefined): LuthierError {
  const reset =
    error.reason === '' &&
    ((error.code === Status.CANCELLED && !signal?.aborted) ||
      (error.code === Status.INTERNAL && error.message.includes('RST_STREAM')));
  return reset ? new LuthierError('the stream was reset', { code: Status.UNAVAILABLE, cause: error }) : error;
}

/** Opens one stream of events after a sequence number; `job` is empty before the first event named it. */
type OpenStream = (afterSequence: number, job: string) => AsyncIterable<{ readonly event?: TrainingEvent | undefined }>;

/**
 * Yields every event after `afterSequence` once and in order, until the job has ended. A stream that is lost
 * is opened again after the last event that arrived. Leaving the loop cancels the stream, not the job.
 */
export async function* attach(
  open: OpenStream,
  options: AttachOptions,
): AsyncGenerator<TrainingEvent, void, undefined> {
  const backoff = new Backoff(options.retry);
  let last = options.afterSequence ?? 0;
  let job = '';
  for (;;) {
    let lost: LuthierError;
    let ended = false;
    try {
      for await (const { event } of open(last, job)) {
        if (event === undefined || event.sequence <= last) continue;
        if (event.sequence !== last + 1) {
          throw new LuthierError(`expected event ${last + 1} of ${event.job}, found ${event.sequence}`, {
            code: Status.DATA_LOSS,
            reason: 'EVENT_GAP',
          });
        }
        last = event.sequence;
        job = event.job;
        backoff.reset();
        // A job that failed may have been resumed after.
        if (event.event?.$case === 'stateChange') ended = isTerminal(event.event.value.to);
        yield event;
      }
      // The server ends a stream well only behind a job's last event; one that drains ends it as UNAVAILABLE.
      return;
    } catch (error) {
      // Nothing comes after the end, so nothing was lost.
      if (ended) return;
      lost = asLost(toLuthierError(error, 'WatchTrainingJob'), options.signal);
    }
    await backoff.wait(lost, options.signal);
    options.onReattach?.(lost, last);
  }
}
