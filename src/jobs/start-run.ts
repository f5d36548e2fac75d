/** Starts a job's run from its newest checkpoint that can be used, or from the start. */
import { createHash } from 'node:crypto';
import type { CheckpointFacts, CheckpointStore, StoredCheckpoint } from '../checkpoints/checkpoint-store.ts';
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import type { BaseModel, TrainingConfig, TrainingRun } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { EventLog } from './job-store.ts';

export interface StartedRun {
  readonly run: TrainingRun;
  /** What it goes on from; null: it runs from the start. */
  readonly from: StoredCheckpoint | null;
  /** Names of newer checkpoints that could not be used. */
  readonly skipped: readonly string[];
}

/** What a job's checkpoints say of it. */
export function checkpointFacts({ name, spec }: TrainingJob, { metadata }: BaseModel): CheckpointFacts {
  const encoded = TrainingSpec.encode(spec ?? TrainingSpec.create()).finish();
  const specHash = createHash('sha256').update(encoded).digest('hex');
  return { job: name, specHash, baseModelHash: metadata.contentHash };
}

const FACTS: Readonly<Record<keyof CheckpointFacts, string>> = {
  job: 'the job',
  specHash: "the hash of the job's spec",
  baseModelHash: 'the content hash of the base model',
};

/** @throws LuthierError CHECKPOINT_MISMATCH */
function checkFacts({ name, manifest }: StoredCheckpoint, facts: CheckpointFacts): void {
  for (const key of Object.keys(FACTS) as (keyof CheckpointFacts)[]) {
    if (manifest[key] === facts[key]) continue;
    const message =
      `${FACTS[key]} was ${manifest[key]} when checkpoint ${name} was taken, and is ${facts[key]} now; ` +
      'put back what the job began with and resume it, or create a new job';
    throw new LuthierError('CHECKPOINT_MISMATCH', message);
  }
}

/**
 * A checkpoint that is broken is told of by a warning, and the one before is tried.
 * @throws LuthierError CHECKPOINT_MISMATCH; the signal's reason; what `BaseModel.train` throws
 */
export async function startRun(
  { log, checkpoints }: { readonly log: EventLog; readonly checkpoints: CheckpointStore },
  job: TrainingJob,
  model: BaseModel,
  config: TrainingConfig,
  { train, evaluation }: Pick<PreparedExamples, 'train' | 'evaluation'>,
  signal: AbortSignal,
): Promise<StartedRun> {
  const skipped: string[] = [];
  for (const folder of await checkpoints.list(job.name)) {
    signal.throwIfAborted();
    try {
      const from = await checkpoints.read(folder);
      checkFacts(from, checkpointFacts(job, model));
      return { run: await model.train(config, train, evaluation, from.path), from, skipped };
    } catch (error) {
      const { reason, message } = toLuthierError(error);
      if (reason !== 'CHECKPOINT_CORRUPT') throw error;
      skipped.push(folder.name);
      const value = { reason, message: `checkpoint ${folder.name} is not used: ${message}` };
      await log.append(job.name, { $case: 'warning', value });
    }
  }
  return { run: await model.train(config, train, evaluation, null), from: null, skipped };
}
