/** Shows a job's events until it ends, and decides what an interrupt means. */
import { JobState, LuthierError, type ReattachListener, Status, TrainingEvent } from '../../typescript/src/index.ts';
import { printJson, type Session } from './connection.ts';
import { EXIT } from './failure.ts';
import { onInterrupt } from './interrupts.ts';
import { TrainingView } from './view/training-view.ts';

/** How a job ended, as far as this process saw it. */
export interface Outcome {
  /** `trainingJobs/{id}`; empty where no event arrived. */
  readonly job: string;
  /** Null: detached. */
  readonly state: JobState | null;
  readonly exitCode: number;
}

type Open = (options: {
  readonly signal: AbortSignal;
  readonly onReattach: ReattachListener;
}) => AsyncIterable<TrainingEvent>;

const EXIT_CODES = new Map<JobState, number>([
  [JobState.JOB_STATE_SUCCEEDED, EXIT.ok],
  [JobState.JOB_STATE_FAILED, EXIT.jobFailed],
  [JobState.JOB_STATE_CANCELLED, EXIT.jobCancelled],
]);

/**
 * Shows what `open` yields. Ctrl-C detaches: the job goes on. In this process it cannot go on, so there the first Ctrl-C asks and
 * the second one cancels the job, whose last events still arrive.
 */
export async function followJob(session: Session, open: Open): Promise<Outcome> {
  const { client, io, json, embedded, reconnect } = session;
  const view = json ? null : new TrainingView(io);
  const note = (text: string) => (view === null ? void io.stderr.write(`${text}\n`) : view.note(text));
  const detach = new AbortController();
  let job = '';
  let sequence = 0;
  let state: JobState | null = null;

  const interrupted = (count: number) => {
    if (!embedded || job === '' || count > 2) return detach.abort();
    if (count === 1) return note('The job runs in this process and would end with it. Ctrl-C again cancels the job.');
    note(`Cancelling ${job} …`);
    client.cancelTrainingJob(job).catch((error: unknown) => {
      note(`${job} could not be cancelled: ${error instanceof Error ? error.message : String(error)}`);
      detach.abort();
    });
  };
  const onReattach: ReattachListener = (error) =>
    note(`The stream was lost (${error.message}); re-attached after event ${sequence}.`);

  const read = async () => {
    for await (const event of open({ signal: detach.signal, onReattach })) {
      job = event.job;
      sequence = event.sequence;
      if (event.event?.$case === 'stateChange') state = event.event.value.to;
      if (view === null) await printJson(session, TrainingEvent, event);
      else view.show(event);
    }
  };
  try {
    await onInterrupt(interrupted, read);
  } catch (error) {
    const detached = detach.signal.aborted && error instanceof LuthierError && error.code === Status.CANCELLED;
    view?.close();
    if (!detached) throw error;
    if (job !== '' && !embedded) {
      const command = ['luthier jobs watch', job, `--after ${sequence}`, reconnect].filter(Boolean).join(' ');
      note(`Detached; ${job} goes on. Re-attach: ${command}`);
    }
    return { job, state: null, exitCode: EXIT.interrupted };
  }
  view?.close();
  return { job, state, exitCode: EXIT_CODES.get(state ?? JobState.JOB_STATE_UNSPECIFIED) ?? EXIT.ok };
}
