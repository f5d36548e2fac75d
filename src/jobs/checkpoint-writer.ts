/** Writes the checkpoints of one run, beside the reading of its events and never two at once. */
import type { CheckpointFacts, CheckpointStore, StoredCheckpoint } from '../checkpoints/checkpoint-store.ts';
import type { TrainingRun } from '../engine/engine.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { Checkpoint } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import type { EventLog } from './job-store.ts';

export interface CheckpointWriterOptions {
  readonly store: CheckpointStore;
  readonly log: EventLog;
  readonly logger: Pick<Logger, 'warn'>;
  readonly run: Pick<TrainingRun, 'requestCheckpoint' | 'saveCheckpoint'>;
  readonly facts: CheckpointFacts;
  /** Milliseconds between two checkpoints; null: the run takes them itself. */
  readonly interval: number | null;
  /** Checkpoints to keep. */
  readonly keep: number;
  /** Names of checkpoints that could not be gone on from. */
  readonly useless: readonly string[];
}

/** A checkpoint as the contract shows it. */
export function checkpointMessage({ manifest, sizeBytes }: StoredCheckpoint): Checkpoint {
  return { globalStep: manifest.globalStep, sizeBytes, createTime: new Date(manifest.createTime) };
}

export class CheckpointWriter {
  readonly #options: CheckpointWriterOptions;
  readonly #timer: NodeJS.Timeout | null;
  #writing: Promise<void> | null = null;
  /** Steps done at the latest checkpoint that is still to be written; null: none is. */
  #next: number | null = null;
  /** Steps done at the latest one that was. */
  #written = -1;
  #warned = false;

  /** Starts the clock, where checkpoints follow one: the timers of the event loop, which no change of the time of day moves. */
  constructor(options: CheckpointWriterOptions) {
    this.#options = options;
    const ask = (): void => {
      if (this.#writing === null) options.run.requestCheckpoint();
    };
    this.#timer = options.interval === null ? null : setInterval(ask, options.interval).unref();
  }

  /**
   * To be called with every `checkpoint` event. What cannot be written is a warning in the log, and the next one is tried.
   * @param globalStep The event's. The run writes its latest, so that one event's may be written with an earlier one's.
   */
  taken(globalStep: number): void {
    if (this.#writing !== null) {
      this.#next = globalStep;
      return;
    }
    this.#writing = this.#write('training goes on, and the next one is tried').finally(() => {
      this.#writing = null;
      const next = this.#next;
      this.#next = null;
      if (next !== null && next > this.#written) this.taken(next);
    });
  }

  /** Writes the checkpoint of a run that was paused. */
  async paused(): Promise<void> {
    await this.close();
    this.#warned = false;
    await this.#write('the job goes on from the one before, or from the start');
  }

  /** Waits for what is being written; nothing is from then on. Idempotent. */
  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#next = null;
    await this.#writing;
  }

  async #write(otherwise: string): Promise<void> {
    const { store, log, logger, run, facts, keep, useless } = this.#options;
    const begun = performance.now();
    try {
      const stored = await store.save(facts, (folder) => run.saveCheckpoint(folder));
      const value = { checkpoint: checkpointMessage(stored), seconds: (performance.now() - begun) / 1000 };
      await log.append(facts.job, { $case: 'checkpointSaved', value });
      this.#written = stored.manifest.globalStep;
      this.#warned = false;
    } catch (error) {
      logger.warn({ job: facts.job, err: error }, 'a checkpoint was not written');
      await this.#warn(`a checkpoint could not be written: ${toLuthierError(error).message}; ${otherwise}`);
      return;
    }
    await store.prune(facts.job, keep, useless).catch((error: unknown) => {
      logger.warn({ job: facts.job, err: error }, 'old checkpoints were not deleted');
    });
  }

  /** Once, until one is written again. */
  async #warn(message: string): Promise<void> {
    if (this.#warned) return;
    this.#warned = true;
    const { log, logger, facts } = this.#options;
    await log
      .append(facts.job, { $case: 'warning', value: { reason: 'CHECKPOINT_NOT_SAVED', message } })
      .catch((error: unknown) => logger.warn({ job: facts.job, err: error }, 'a warning could not be stored'));
  }
}
