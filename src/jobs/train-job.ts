/** One job's work, from its data to its stored adapter. Knows nothing of queues. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import type { ModelMetadata, TrainingRun } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { idOf } from '../store/resource-id.ts';
import { saveStepsOf } from './checkpoint-cadence.ts';
import { followRun } from './follow-run.ts';
import type { EventLog, LoggedEvent } from './job-store.ts';
import { readAnnounced } from './logged-events.ts';
import type { MeasuredRates } from './measured-rates.ts';
import { type PreparedJob, type PrepareJobDependencies, prepareJob } from './prepare-job.ts';
import { startRun } from './start-run.ts';
import { limitTime, type TimeLimit } from './time-limit.ts';
import { trainingTime } from './training-time.ts';

export interface TrainJobDependencies extends PrepareJobDependencies {
  readonly log: EventLog;
  /** Where runs write, on the adapter store's file system. */
  readonly folder: string;
  readonly checkpoints: CheckpointStore;
  readonly rates: MeasuredRates;
  readonly logger: Pick<Logger, 'info' | 'warn'>;
}

/**
 * Trains and stores the adapter; the job has its events and stands before SUCCEEDED afterwards.
 * @param job In VALIDATING; as it was when it was taken up.
 * @throws the signal's reason, a StopRequest: after a pause the job has its checkpoint; what data sets, models, adapters and the engine throw
 */
export async function trainJob(
  dependencies: TrainJobDependencies,
  job: TrainingJob,
  signal: AbortSignal,
): Promise<void> {
  const spec = job.spec ?? TrainingSpec.create();
  const prepared = await prepareJob(dependencies, spec, signal);
  try {
    await trainPrepared(dependencies, job, spec, prepared, signal);
  } finally {
    await prepared.prepared.release();
  }
}

async function trainPrepared(
  dependencies: TrainJobDependencies,
  job: TrainingJob,
  spec: TrainingSpec,
  { prepared, config, estimate, templateWarning }: PreparedJob,
  signal: AbortSignal,
): Promise<void> {
  const { log, registry, logger } = dependencies;
  const { name } = job;
  logger.info({ job: name, ...prepared.encoding }, 'data encoded');
  const announced = await readAnnounced(log, job, signal);
  const warn = async (reason: string, message: string): Promise<void> => {
    if (announced.warnings.has(`${reason}: ${message}`)) return;
    await log.append(name, { $case: 'warning', value: { reason, message } });
  };
  for (const message of prepared.warnings) await warn('OVER_LENGTH', message);
  if (templateWarning !== null) await warn('TEMPLATE_MISMATCH', templateWarning);
  // Before the weights take memory themselves.
  const { refusal } = estimate.memory;
  if (refusal !== null) throw new LuthierError('OUT_OF_MEMORY', refusal);
  await log.move(name, JobState.JOB_STATE_LOADING);
  const lease = await registry.acquire(spec.model, spec.loadIn);
  try {
    signal.throwIfAborted();
    const { model } = lease;
    const whole = { ...config, saveSteps: saveStepsOf(spec, estimate) };
    const started = await startRun(dependencies, job, model, whole, prepared, signal);
    const { run } = started;
    try {
      await log.move(name, JobState.JOB_STATE_RUNNING);
      using limit =
        spec.maxDurationSeconds === undefined ? null : await beginLimit(log, job, run, spec.maxDurationSeconds, signal);
      const globalStep = await followRun(dependencies, { ...started, job, announced, prepared, model }, signal);
      if (limit?.reached) {
        const message = `the job may train for ${spec.maxDurationSeconds} seconds: the step after which they were over was its last one`;
        await warn('MAX_DURATION', message);
      }
      await keep(dependencies, job, run, globalStep, prepared, lease.registered.name, model.metadata);
    } finally {
      run.close();
    }
  } finally {
    lease.release();
  }
}

/** Counts what earlier attempts trained, too. */
async function beginLimit(
  log: EventLog,
  job: TrainingJob,
  run: TrainingRun,
  seconds: number,
  signal: AbortSignal,
): Promise<TimeLimit> {
  return limitTime(run, seconds * 1000 - (await trainingTime(log, job, signal)));
}

/** The step whose adapter a job stores, once its last event is there. */
export function keptStep({ spec, lastStep, bestEvaluation }: TrainingJob): number {
  return (spec?.loadBestModelAtEnd ? bestEvaluation : lastStep)?.globalStep ?? 0;
}

async function keep(
  { log, adapters, registry, folder: parent }: TrainJobDependencies,
  { name, spec }: TrainingJob,
  run: TrainingRun,
  globalStep: number,
  { template }: PreparedExamples,
  baseModel: string,
  metadata: ModelMetadata,
): Promise<void> {
  const id = idOf(name);
  const folder = join(parent, id);
  await mkdir(folder, { recursive: true });
  const origin = {
    baseModelName: metadata.name,
    baseModelHash: metadata.contentHash,
    templateId: template?.id ?? '',
    templateHash: template?.hash ?? '',
    template: template === null ? '' : ((await registry.renderer(baseModel, spec?.template ?? '')).templateFile ?? ''),
  };
  await run.saveAdapter(folder, origin);
  const output = spec?.output || id;
  const adapter = await adapters.adopt({ folder, id: output, baseModel, template, trainingJob: name, origin });
  await log.append(name, adapterSaved(adapter, globalStep));
}

/** The event that says a job's adapter is stored. */
export function adapterSaved(adapter: ReturnType<ManagedAdapterStore['get']>, globalStep: number): LoggedEvent {
  const value = { adapter: adapter.name, sizeBytes: adapter.sizeBytes, sha256: adapter.info.sha256, globalStep };
  return { $case: 'adapterSaved', value };
}
