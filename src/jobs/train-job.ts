/** One job's work, from its data to its stored adapter. Knows nothing of queues. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { countOf } from '../datasets/example-collector.ts';
import { type PreparedExamples, prepareExamples } from '../datasets/prepare-examples.ts';
import { learnedLabels } from '../datasets/tokenize-examples.ts';
import type { ModelMetadata, TokenExamples, TrainingEvent, TrainingRun } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { JobState, type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { overLengthField, trainOnField } from '../services/validate/dataset.ts';
import { engineConfig, initAdapterFolder } from './engine-config.ts';
import type { EventLog, LoggedEvent } from './job-store.ts';

export interface TrainJobDependencies {
  readonly log: EventLog;
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly adapters: ManagedAdapterStore;
  /** Where runs write, on the adapter store's file system. */
  readonly folder: string;
  readonly modelRoots: readonly string[];
}

/** Labels that are learned: those after each example's first position. */
function labelTokens(examples: TokenExamples): number {
  const { labels, offsets } = examples;
  let count = 0;
  for (let index = 0; index < countOf(examples); index++) {
    count += learnedLabels(labels.subarray(offsets[index], offsets[index + 1]));
  }
  return count;
}

/** What an event of the engine becomes in the log; null: nothing. */
function eventBody(event: TrainingEvent, prepared: PreparedExamples, metadata: ModelMetadata): LoggedEvent | null {
  switch (event.kind) {
    case 'started': {
      const { train, evaluation, template } = prepared;
      return {
        $case: 'plan',
        value: {
          maxSteps: event.maxSteps,
          examples: countOf(train),
          evalExamples: evaluation === null ? 0 : countOf(evaluation),
          tokens: train.inputIds.length,
          labelTokens: labelTokens(train),
          trainableParameters: event.trainableParameters,
          targetModules: [...event.targetModules],
          template: template === null ? undefined : { ...template },
          baseModelHash: metadata.contentHash,
        },
      };
    }
    case 'step':
      return { $case: 'step', value: event.step };
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
  const { log, registry, datasets, adapters, modelRoots } = dependencies;
  const { name } = job;
  const spec = job.spec ?? TrainingSpec.create();
  const initAdapter = await initAdapterFolder(spec.initAdapter, adapters, modelRoots);
  const prepared = await prepareExamples(
    { registry, openDataset: (dataset) => datasets.open(dataset) },
    { ...spec, trainOn: trainOnField.parse(spec.trainOn), overLength: overLengthField.parse(spec.overLength) },
    signal,
  );
  for (const message of prepared.warnings) {
    await log.append(name, { $case: 'warning', value: { reason: 'OVER_LENGTH', message } });
  }
  await log.move(name, JobState.JOB_STATE_LOADING);
  const lease = await registry.acquire(spec.model, spec.loadIn);
  try {
    signal.throwIfAborted();
    const { metadata } = lease.model;
    const run = await lease.model.train(engineConfig(spec, initAdapter), prepared.train, prepared.evaluation);
    try {
      await log.move(name, JobState.JOB_STATE_RUNNING);
      await follow(log, name, run, prepared, metadata, signal);
      await keep(dependencies, job, run, prepared, lease.registered.name, metadata);
    } finally {
      run.close();
    }
  } finally {
    lease.release();
  }
}

async function follow(
  log: EventLog,
  name: string,
  run: TrainingRun,
  prepared: PreparedExamples,
  metadata: ModelMetadata,
  signal: AbortSignal,
): Promise<void> {
  const cancel = (): void => run.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  if (signal.aborted) cancel();
  try {
    for await (const event of run.events()) {
      const body = eventBody(event, prepared, metadata);
      if (body !== null) await log.append(name, body);
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener('abort', cancel);
  }
}

async function keep(
  { log, adapters, folder: parent }: TrainJobDependencies,
  { name, spec }: TrainingJob,
  run: TrainingRun,
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
  };
  await run.saveAdapter(folder, origin);
  const output = spec?.output || id;
  const adapter = await adapters.adopt({ folder, id: output, baseModel, template, trainingJob: name, origin });
  await log.append(name, adapterSaved(adapter));
}

/** The event that says a job's adapter is stored. */
export function adapterSaved(adapter: ReturnType<ManagedAdapterStore['get']>): LoggedEvent {
  const value = { adapter: adapter.name, sizeBytes: adapter.sizeBytes, sha256: adapter.info.sha256 };
  return { $case: 'adapterSaved', value };
}
