/** One trace for each job, made of its stored events: a span from the queue to the end or to the next wait, and one in it for each state. */
import { type Context, ROOT_CONTEXT, type Span, SpanStatusCode, type Tracer, trace } from '@opentelemetry/api';
import { JobState, type TrainingEvent, type TrainingJob } from '../gen/luthier/v1/training_service.ts';
import { isWorkedOn, label } from '../jobs/job-state.ts';
import type { EventLog, JobStore } from '../jobs/job-store.ts';
import type { Logger } from '../logging/logger.ts';
import { idOf } from '../store/resource-id.ts';
import type { ChosenIds } from './chosen-ids.ts';

export interface JobSpansOptions {
  readonly tracer: Tracer;
  readonly ids: ChosenIds;
  readonly store: Pick<JobStore, 'get'> & Pick<EventLog, 'watch'>;
  readonly logger: Pick<Logger, 'warn'>;
}

const { JOB_STATE_QUEUED, JOB_STATE_FAILED } = JobState;

/** The id of a job's trace: that of the job without its dashes. */
const traceIdOf = (name: string): string => idOf(name).replaceAll('-', '');

/** What an event adds to the span of its state; steps are too many, metrics tell of them. */
function noteOf(event: TrainingEvent['event']): [string, Record<string, string | number | boolean>] | null {
  switch (event?.$case) {
    case 'evaluation': {
      const { globalStep, loss, trainerLoss, best } = event.value;
      return ['evaluation', { global_step: globalStep, loss, trainer_loss: trainerLoss, best }];
    }
    case 'warning':
      return ['warning', { reason: event.value.reason, message: event.value.message }];
    case 'adapterSaved':
      return ['adapter saved', { adapter: event.value.adapter, size_bytes: event.value.sizeBytes }];
    default:
      return null;
  }
}

/** The spans of a job from one stay in the queue to the next. */
class Attempt {
  readonly #tracer: Tracer;
  readonly #whole: Span;
  readonly #inWhole: Context;
  #state: Span;

  constructor(tracer: Tracer, ids: ChosenIds, { name, spec }: TrainingJob, queued: Date) {
    const attributes = {
      'luthier.job': name,
      'luthier.model': spec?.model ?? '',
      'luthier.dataset': spec?.dataset ?? '',
      ...Object.fromEntries(Object.entries(spec?.labels ?? {}).map(([key, value]) => [`luthier.label.${key}`, value])),
    };
    this.#tracer = tracer;
    const begin = (): Span => tracer.startSpan('training job', { root: true, startTime: queued, attributes });
    this.#whole = ids.withTraceId(traceIdOf(name), begin);
    this.#inWhole = trace.setSpan(ROOT_CONTEXT, this.#whole);
    this.#state = this.#begin(JOB_STATE_QUEUED, queued);
  }

  /** @returns False once nothing more belongs to it. */
  add({ event, time = new Date() }: TrainingEvent, lastStep: () => Promise<number>): boolean | Promise<boolean> {
    if (event?.$case !== 'stateChange') {
      const note = noteOf(event);
      if (note) this.#state.addEvent(...note, time);
      return true;
    }
    const { to, failure } = event.value;
    this.#state.end(time);
    if (isWorkedOn(to)) {
      this.#state = this.#begin(to, time);
      return true;
    }
    return lastStep().then((globalStep) => {
      this.#whole.setAttributes({ 'luthier.state': label(to), 'luthier.global_step': globalStep });
      if (to === JOB_STATE_FAILED) {
        this.#whole.setStatus({ code: SpanStatusCode.ERROR, message: failure?.message ?? '' });
        this.#whole.setAttribute('error.type', failure?.reason ?? '');
      }
      this.#whole.end(time);
      return false;
    });
  }

  /** The server ends before the job does. */
  leave(): void {
    this.#state.end();
    this.#whole.end();
  }

  #begin(state: JobState, startTime: Date): Span {
    return this.#tracer.startSpan(label(state).toLowerCase(), { startTime }, this.#inWhole);
  }
}

/** Follows jobs and sends their spans. */
export class JobSpans {
  readonly #options: JobSpansOptions;
  readonly #followed = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();

  constructor(options: JobSpansOptions) {
    this.#options = options;
  }

  /** From its last stay in the queue until it has ended or waits again. What goes wrong is logged, and the job goes on. */
  follow(name: string): void {
    if (this.#followed.has(name)) return;
    const done = this.#follow(name)
      .catch((error: unknown) => this.#options.logger.warn({ job: name, err: error }, 'a job could not be traced'))
      .finally(() => this.#followed.delete(name));
    this.#followed.set(name, done);
  }

  /** Ends the spans of jobs that go on. */
  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#followed.values());
  }

  async #follow(name: string): Promise<void> {
    const { tracer, ids, store } = this.#options;
    const { signal } = this.#closing;
    const job = await store.get(name);
    const lastStep = async (): Promise<number> => (await store.get(name)).lastStep?.globalStep ?? 0;
    // What was stored before belongs to this attempt from the last stay in the queue on; earlier attempts were sent already.
    let known: TrainingEvent[] = [];
    let attempt: Attempt | null = null;
    try {
      for await (const event of store.watch(name, 0, signal)) {
        if (event.sequence <= job.lastSequence) {
          if (isQueued(event)) known = [];
          known.push(event);
          if (event.sequence < job.lastSequence) continue;
        } else known = [event];
        for (const found of known) {
          if (attempt === null) attempt = new Attempt(tracer, ids, job, found.time ?? new Date());
          else if (!(await attempt.add(found, lastStep))) {
            attempt = null;
            return;
          }
        }
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      attempt?.leave();
    }
  }
}

const isQueued = ({ event }: TrainingEvent): boolean =>
  event?.$case === 'stateChange' && event.value.to === JOB_STATE_QUEUED;
