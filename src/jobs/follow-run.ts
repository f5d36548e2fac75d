/** Brings a run's events into its job's log. What the log has already is compared and not told again. */
import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import type { BaseModel, TrainingEvent, TrainingStep } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { saveIntervalOf, saveLimitOf } from './checkpoint-cadence.ts';
import { CheckpointWriter, checkpointMessage } from './checkpoint-writer.ts';
import type { EventLog } from './job-store.ts';
import { type Announced, type Comparison, LoggedResults } from './logged-events.ts';
import type { MeasuredRates } from './measured-rates.ts';
import { planMessage } from './plan-message.ts';
import { checkpointFacts, type StartedRun } from './start-run.ts';
import { stopRequestOf } from './stop-request.ts';

export interface FollowRunDependencies {
  readonly log: EventLog;
  readonly checkpoints: CheckpointStore;
  readonly rates: MeasuredRates;
  readonly logger: Pick<Logger, 'warn'>;
}

/** What is followed. */
export interface FollowedRun extends StartedRun {
  /** As it was when it was taken up. */
  readonly job: TrainingJob;
  readonly announced: Announced;
  readonly prepared: PreparedExamples;
  readonly model: BaseModel;
}

const stepMessage = (step: TrainingStep) => ({ ...step, devices: [...step.devices] });

type Started = TrainingEvent & { readonly kind: 'started' };

class Follower {
  readonly #dependencies: FollowRunDependencies;
  readonly #followed: FollowedRun;
  readonly #signal: AbortSignal;
  readonly #writer: CheckpointWriter;
  #logged: LoggedResults | null = null;
  #differences: readonly string[] = [];
  #differs = false;
  #measure: ReturnType<MeasuredRates['measure']> | null = null;
  /** Steps after which the adapter was as it is now, and as it was at its best. */
  #lastStep = 0;
  #bestStep = 0;

  constructor(dependencies: FollowRunDependencies, followed: FollowedRun, signal: AbortSignal) {
    this.#dependencies = dependencies;
    this.#followed = followed;
    this.#signal = signal;
    const { job, model, run, skipped } = followed;
    const spec = job.spec ?? TrainingSpec.create();
    this.#writer = new CheckpointWriter({
      store: dependencies.checkpoints,
      log: dependencies.log,
      logger: dependencies.logger,
      run,
      facts: checkpointFacts(job, model),
      interval: saveIntervalOf(spec),
      keep: saveLimitOf(spec),
      useless: skipped,
    });
  }

  /** @returns The step whose adapter the run has now; null: it was paused. */
  async follow(): Promise<number | null> {
    let paused = false;
    try {
      for await (const event of this.#followed.run.events()) {
        await this.#take(event);
        if (event.kind === 'paused') paused = true;
        if (event.kind === 'cancelled') throw new LuthierError('CANCELLED', 'the run was cancelled');
      }
      if (paused) await this.#writer.paused();
    } finally {
      await this.#writer.close();
    }
    if (paused) return null;
    return this.#followed.job.spec?.loadBestModelAtEnd ? this.#bestStep : this.#lastStep;
  }

  async #take(event: TrainingEvent): Promise<void> {
    const { log } = this.#dependencies;
    const { name } = this.#followed.job;
    switch (event.kind) {
      case 'started':
        return this.#start(event);
      case 'step': {
        const { step } = event;
        this.#lastStep = step.globalStep;
        this.#measure?.(step.tokens, step.tokensPerSecond);
        if (await this.#isNew(this.#logged?.step(step))) {
          await log.append(name, { $case: 'step', value: stepMessage(step) });
        }
        return;
      }
      case 'evaluation': {
        const { evaluation } = event;
        if (evaluation.best) this.#bestStep = evaluation.globalStep;
        if (await this.#isNew(this.#logged?.evaluation(evaluation))) {
          await log.append(name, { $case: 'evaluation', value: evaluation });
        }
        return;
      }
      case 'checkpoint':
        return this.#writer.taken(event.globalStep);
      default:
        return;
    }
  }

  async #start(event: Started): Promise<void> {
    const { log, rates } = this.#dependencies;
    const { job, announced, prepared, model, from, skipped } = this.#followed;
    const { contentHash } = model.metadata;
    const { recomputeLayers, offloadActivations } = event.memory;
    this.#measure = rates.measure({ contentHash, storage: model.storage, recomputeLayers, offloadActivations });
    if (!announced.plan) {
      await log.append(job.name, { $case: 'plan', value: planMessage(event, prepared, contentHash) });
    }
    if (!announced.plan && from === null) return;
    this.#differences = event.resumed?.differences ?? [];
    this.#logged = await LoggedResults.read(log, job, event.resumed?.globalStep ?? null, this.#signal);
    this.#lastStep = event.resumed?.globalStep ?? 0;
    this.#bestStep = this.#logged.bestStep;
    const value = {
      checkpoint: from === null ? undefined : checkpointMessage(from),
      differences: [...this.#differences],
      skippedCheckpoints: [...skipped],
    };
    await log.append(job.name, { $case: 'jobResumed', value });
  }

  /** Whether the log has no such result yet. The first one that differs from the log's is told. */
  async #isNew(comparison: Comparison = 'new'): Promise<boolean> {
    if (comparison === 'new') return true;
    if (comparison === 'same' || this.#differs) return false;
    this.#differs = true;
    const why =
      this.#differences.length === 0
        ? 'nothing that is known of differs from where they were computed first'
        : `they were computed first where other things held: ${this.#differences.join('; ')}`;
    const message = `computed again after the checkpoint, ${comparison.difference}; the events keep what they say; ${why}`;
    await this.#dependencies.log.append(this.#followed.job.name, {
      $case: 'warning',
      value: { reason: 'NOT_REPRODUCED', message },
    });
    return false;
  }
}

/**
 * Follows a run to its end, or until its job is asked to stop; then its checkpoint is on the disk.
 * @returns The step whose adapter the run has now.
 * @throws the signal's reason where the job was asked to stop, unless it ended before a pause took effect
 */
export async function followRun(
  dependencies: FollowRunDependencies,
  followed: FollowedRun,
  signal: AbortSignal,
): Promise<number> {
  const { run } = followed;
  // Whatever else a signal says, such as that the job is another runner's, leaves nothing to go on from here.
  const goesOn = (): boolean => ['pause', 'close'].includes(stopRequestOf(signal)?.kind ?? '');
  const stop = (): void => {
    if (goesOn()) run.pause();
    else run.cancel();
  };
  signal.addEventListener('abort', stop, { once: true });
  if (signal.aborted) stop();
  try {
    const keptStep = await new Follower(dependencies, followed, signal).follow();
    if (keptStep === null || (signal.aborted && !goesOn())) throw signal.reason;
    return keptStep;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
