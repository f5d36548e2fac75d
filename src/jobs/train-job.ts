/** One job's work, from its data to its stored adapter. Knows nothing of queues. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { PreparedExamples } from '../datasets/prepare-examples.ts';
import type { BaseModel, ModelMetadata, TrainingEvent, TrainingRun, TrainingStep } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import type { EventLog, LoggedEvent } from './job-store.ts';
import type { MeasuredRates } from './measured-rates.ts';
import { planMessage } from './plan-message.ts';
import { type PreparedJob, type PrepareJobDependencies, prepareJob } from './prepare-job.ts';

export interface TrainJobDependencies extends PrepareJobDependencies {
  readonly log: EventLog;
  /** Where runs write, on the adapter store's file system. */
  readonly folder: string;
  readonly rates: MeasuredRates;
  readonly logger: Pick<Logger, 'info'>;
}

const stepMessage = (step: TrainingStep) => ({ ...step, devices: [...step.devices] });

/** What an event of the engine becomes in the log; null: nothing. */
function eventBody(event: TrainingEvent, prepared: PreparedExamples, metadata: ModelMetadata): LoggedEvent | null {
  switch (event.kind) {
    case 'started':
      return { $case: 'plan', value: planMessage(event, prepared, metadata.contentHash) };
    case 'step':
      return { $case: 'step', value: stepMessage(event.step) };
    case 'evaluation':
      return { $case: 'evaluation', value: event.evaluation };
    case 'cancelled':
      throw new LuthierError('CANCELLED', 'the run was cancelled');
    default:
      return null;
  }
}

/**
 * Trains and stores the adapter; the job has its events and stands before SUCCEEDED afterwards.
 * @param job In VALIDATING.
 * @throws the signal's reason; what data sets, models, adapters and the engine throw
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
  for (const message of prepared.warnings) {
    await log.append(name, { $case: 'warning', value: { reason: 'OVER_LENGTH', message } });
  }
  if (templateWarning !== null) {
    await log.append(name, { $case: 'warning', value: { reason: 'TEMPLATE_MISMATCH', message: templateWarning } });
  }
  // Before the weights take memory themselves.
  const { refusal } = estimate.memory;
  if (refusal !== null) throw new LuthierError('OUT_OF_MEMORY', refusal);
  await log.move(name, JobState.JOB_STATE_LOADING);
  const lease = await registry.acquire(spec.model, spec.loadIn);
  try {
    signal.throwIfAborted();
    const { metadata } = lease.model;
    const run = await lease.model.train(config, prepared.train, prepared.evaluation);
    try {
      await log.move(name, JobState.JOB_STATE_RUNNING);
      const globalStep = await follow(dependencies, job, run, prepared, lease.model, signal);
      await keep(dependencies, job, run, globalStep, prepared, lease.registered.name, metadata);
    } finally {
      run.close();
    }
  } finally {
    lease.release();
  }
}

/** What says which step's adapter a job stores. */
type Kept = Pick<TrainingJob, 'spec' | 'lastStep' | 'bestEvaluation'>;

/** The step whose adapter a job stores, once its last event is there. */
export function keptStep({ spec, lastStep, bestEvaluation }: Kept): number {
  return (spec?.loadBestModelAtEnd ? bestEvaluation : lastStep)?.globalStep ?? 0;
}

/** @returns as `keptStep` */
async function follow(
  { log, rates }: TrainJobDependencies,
  { name, spec }: TrainingJob,
  run: TrainingRun,
  prepared: PreparedExamples,
  { metadata, storage }: BaseModel,
  signal: AbortSignal,
): Promise<number> {
  const { contentHash } = metadata;
  const kept: Kept = { spec, lastStep: undefined, bestEvaluation: undefined };
  let measure: ReturnType<MeasuredRates['measure']> | null = null;
  const cancel = (): void => run.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  try {
    for await (const event of run.events()) {
      if (event.kind === 'started') {
        const { recomputeLayers, offloadActivations } = event.memory;
        measure = rates.measure({ contentHash, storage, recomputeLayers, offloadActivations });
      } else if (event.kind === 'step') {
        kept.lastStep = stepMessage(event.step);
        measure?.(event.step.tokens, event.step.tokensPerSecond);
      } else if (event.kind === 'evaluation' && event.evaluation.best) kept.bestEvaluation = event.evaluation;
      const body = eventBody(event, prepared, metadata);
      if (body !== null) await log.append(name, body);
    }
    signal.throwIfAborted();
    return keptStep(kept);
  } finally {
    signal.removeEventListener('abort', cancel);
  }
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
  const id = name.slice(name.indexOf('/') + 1);
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
