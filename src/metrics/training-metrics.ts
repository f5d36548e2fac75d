import {
  type DeviceStep,
  JobState,
  type TrainingEvaluation,
  type TrainingEvent,
  type TrainingStep,
} from '../gen/luthier/v1/training_service.ts';
import type { EventLog, JobStore } from '../jobs/job-store.ts';
import type { Logger } from '../logging/logger.ts';
import { counter, type Family, gauge } from './exposition.ts';

export interface TrainingMetricsOptions {
  readonly store: Pick<JobStore, 'get'> & Pick<EventLog, 'watch'>;
  readonly logger: Pick<Logger, 'warn'>;
}

/** A running job's latest step and evaluation. */
interface Latest {
  readonly step?: TrainingStep;
  readonly evaluation?: TrainingEvaluation;
}

/** A gauge of each device at the running job's latest step, by rank. */
const perDevice = (
  name: string,
  help: string,
  step: TrainingStep | undefined,
  value: (device: DeviceStep) => number,
): Family => ({
  name: `luthier_training_device_${name}`,
  type: 'gauge',
  help,
  samples: (step?.devices ?? []).map((device, rank) => ({ labels: { rank: String(rank) }, value: value(device) })),
});

/** What training did since the server started, and where the running jobs are. Knows jobs by their events only. */
export class TrainingMetrics {
  readonly #options: TrainingMetricsOptions;
  readonly #closing = new AbortController();
  readonly #followed = new Map<string, Promise<void>>();
  readonly #totals = { steps: 0, skippedSteps: 0, tokens: 0, labelTokens: 0, seconds: 0 };
  /** Of the jobs that run, the one that had an event last at the end. */
  readonly #running = new Map<string, Latest>();

  constructor(options: TrainingMetricsOptions) {
    this.#options = options;
  }

  /** Counts what a job does from now on. */
  follow(name: string): void {
    if (this.#followed.has(name)) return;
    const followed = this.#follow(name)
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#options.logger.warn({ job: name, err: error }, 'a job is not measured');
      })
      .finally(() => this.#followed.delete(name));
    this.#followed.set(name, followed);
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await Promise.all(this.#followed.values());
  }

  families(): Family[] {
    const { steps, skippedSteps, tokens, labelTokens, seconds } = this.#totals;
    const { step, evaluation } = [...this.#running.values()].at(-1) ?? {};
    return [
      counter('luthier_training_steps_total', 'Optimizer steps since the server started.', steps),
      counter('luthier_training_skipped_steps_total', 'Steps of these that updated nothing.', skippedSteps),
      counter('luthier_training_tokens_total', 'Tokens of these steps.', tokens),
      counter('luthier_training_label_tokens_total', 'Labelled tokens of these steps.', labelTokens),
      counter('luthier_training_step_seconds_total', 'Time these steps took.', seconds),
      gauge('luthier_training_tokens_per_second', "Rate of the running job's latest step.", step?.tokensPerSecond),
      gauge('luthier_training_loss', "Loss of the running job's latest step.", step?.loss),
      gauge('luthier_training_grad_norm', 'Gradient norm of that step before clipping.', step?.gradNorm),
      gauge('luthier_training_learning_rate', 'Learning rate of that step.', step?.learningRate),
      gauge('luthier_training_epoch', 'Epochs that the running job has done.', step?.epoch),
      gauge('luthier_training_step', 'Number of that step.', step?.globalStep),
      gauge('luthier_training_max_steps', 'Steps that the running job will take.', step?.maxSteps),
      gauge('luthier_training_eval_loss', "Held-out loss of the running job's latest evaluation.", evaluation?.loss),
      gauge('luthier_training_allocated_bytes', 'Bytes the engine held at that step.', step?.allocatedBytes),
      gauge('luthier_training_peak_allocated_bytes', 'The most bytes until then.', step?.peakAllocatedBytes),
      perDevice('tokens_per_second', 'Rate of each device.', step, (device) => device.tokensPerSecond),
      perDevice('allocated_bytes', 'Bytes that each device held.', step, (device) => device.allocatedBytes),
      perDevice('peak_allocated_bytes', 'The most bytes of each.', step, (device) => device.peakAllocatedBytes),
      perDevice(
        'communication_share',
        'Share of the step in which each waited for gradients to be summed.',
        step,
        (device) => device.communicationShare,
      ),
    ];
  }

  async #follow(name: string): Promise<void> {
    const { store } = this.#options;
    // A job that goes on where an earlier server left it has steps that were counted there.
    const { lastSequence } = await store.get(name);
    try {
      for await (const event of store.watch(name, lastSequence, this.#closing.signal)) this.#count(event);
    } finally {
      this.#running.delete(name);
    }
  }

  /** What a running job's latest is now; the job becomes the last one. */
  #note(job: string, latest: Latest): void {
    const before = this.#running.get(job);
    this.#running.delete(job);
    this.#running.set(job, { ...before, ...latest });
  }

  #count({ job, event }: TrainingEvent): void {
    if (event?.$case === 'evaluation') this.#note(job, { evaluation: event.value });
    if (event?.$case === 'stateChange' && event.value.to !== JobState.JOB_STATE_RUNNING) this.#running.delete(job);
    if (event?.$case !== 'step') return;
    this.#note(job, { step: event.value });
    const { skipped, tokens, labelTokens, tokensPerSecond } = event.value;
    const totals = this.#totals;
    totals.steps += 1;
    totals.skippedSteps += skipped ? 1 : 0;
    totals.tokens += tokens;
    totals.labelTokens += labelTokens;
    if (tokensPerSecond > 0) totals.seconds += tokens / tokensPerSecond;
  }
}
