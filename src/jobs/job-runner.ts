/** Runs queued jobs on the device, one after another, and turns what the engine reports into events. */
import { mkdir, rm } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { prepareExamples } from '../datasets/prepare-examples.ts';
import type { ModelMetadata, TokenExamples, TrainingConfig, TrainingRun } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import { JobState, type TrainingJob, TrainingSpec } from '../gen/luthier/v1/training_service.ts';
import type { Logger } from '../logging/logger.ts';
import { checkPath } from '../models/allowed-path.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { overLengthField, trainOnField } from '../services/validate/dataset.ts';
import { hasEnded, type JobStore } from './job-store.ts';

export interface JobRunnerOptions {
  readonly store: JobStore;
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly adapters: ManagedAdapterStore;
  /** Where runs write; emptied at the start. */
  readonly folder: string;
  readonly modelRoots: readonly string[];
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
}

const cancelled = (): LuthierError => new LuthierError('CANCELLED', 'the job was cancelled');
const interrupted = (): LuthierError =>
  new LuthierError('INTERRUPTED', 'the server ended while the job ran; create it again');

/** A number that a stored spec has by construction. */
const number = (value: number | undefined): number => value ?? 0;

function configOf(spec: TrainingSpec, initAdapterPath: string | null): TrainingConfig {
  const targets = spec.lora?.targetModules ?? [];
  const all = targets.length === 0 || targets.includes('all-linear');
  return {
    lora: {
      r: number(spec.lora?.r),
      loraAlpha: number(spec.lora?.loraAlpha),
      targetModules: all ? null : targets,
      useRslora: spec.lora?.useRslora ?? false,
      seed: number(spec.seed),
    },
    initAdapterPath,
    learningRate: number(spec.learningRate),
    lrSchedulerType: spec.lrSchedulerType ?? 'linear',
    warmupSteps: number(spec.warmupSteps),
    weightDecay: number(spec.weightDecay),
    adamBeta1: number(spec.adamBeta1),
    adamBeta2: number(spec.adamBeta2),
    adamEpsilon: number(spec.adamEpsilon),
    maxGradNorm: number(spec.maxGradNorm),
    perDeviceTrainBatchSize: number(spec.perDeviceTrainBatchSize),
    gradientAccumulationSteps: number(spec.gradientAccumulationSteps),
    numTrainEpochs: number(spec.numTrainEpochs),
    maxSteps: spec.maxSteps ?? null,
    perDeviceEvalBatchSize: number(spec.perDeviceEvalBatchSize),
    evalSteps: spec.evalSteps ?? null,
    shuffle: spec.shuffle ?? true,
    dataSeed: number(spec.dataSeed),
  };
}

const labelTokens = (examples: TokenExamples): number =>
  examples.labels.reduce((count, label) => (label === -100 ? count : count + 1), 0);

export class JobRunner {
  readonly #options: JobRunnerOptions;
  #current: { readonly name: string; readonly controller: AbortController } | null = null;
  #running: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(options: JobRunnerOptions) {
    this.#options = options;
  }

  /** Ends what an earlier server left running and takes up the queue. */
  async start(): Promise<void> {
    const { store, folder, logger } = this.#options;
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true });
    for (const job of store.unfinished()) {
      if (job.state === JobState.JOB_STATE_QUEUED) continue;
      const { reason, message } = interrupted();
      store.move(job.name, JobState.JOB_STATE_FAILED, { reason, message });
      logger.warn({ job: job.name }, 'job was interrupted');
    }
    this.wake();
  }

  /** Looks at the queue; to be called when a job was stored. */
  wake(): void {
    if (this.#closed || this.#current) return;
    const [next] = this.#options.store.inStates(JobState.JOB_STATE_QUEUED);
    if (!next) return;
    const controller = new AbortController();
    this.#current = { name: next.name, controller };
    this.#running = this.#run(next, controller.signal).finally(() => {
      this.#current = null;
      this.wake();
    });
  }

  /** Ends a job within one micro-step; one that has ended is left as it is. @throws LuthierError JOB_NOT_FOUND */
  async cancel(name: string): Promise<TrainingJob> {
    const { store } = this.#options;
    const job = store.get(name);
    if (job.state === JobState.JOB_STATE_QUEUED && this.#current?.name !== job.name) {
      store.move(job.name, JobState.JOB_STATE_CANCELLED);
    } else if (!hasEnded(job.state) && this.#current?.name === job.name) {
      this.#current.controller.abort(cancelled());
      await this.#running;
    }
    return store.get(job.name);
  }

  /** Ends the running job as interrupted; queued ones wait for the next server. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#current?.controller.abort(interrupted());
    await this.#running;
  }

  async #run(job: TrainingJob, signal: AbortSignal): Promise<void> {
    const { store, logger } = this.#options;
    const { name } = job;
    logger.info({ job: name }, 'job started');
    try {
      await this.#train(name, job.spec ?? TrainingSpec.create(), signal);
      store.move(name, JobState.JOB_STATE_SUCCEEDED);
      logger.info({ job: name }, 'job succeeded');
    } catch (thrown) {
      const error = signal.aborted ? toLuthierError(signal.reason) : toLuthierError(thrown);
      if (error.reason === 'INTERNAL') logger.error({ job: name, err: error.cause }, 'job failed');
      else logger.info({ job: name, reason: error.reason }, 'job ended');
      try {
        if (error.reason === 'CANCELLED') store.move(name, JobState.JOB_STATE_CANCELLED);
        else store.move(name, JobState.JOB_STATE_FAILED, { reason: error.reason, message: error.message });
      } catch (cause) {
        // A full disk: the next server finds the job running and ends it.
        logger.error({ job: name, err: cause }, 'the end of a job could not be stored');
      }
    }
  }

  async #train(name: string, spec: TrainingSpec, signal: AbortSignal): Promise<void> {
    const { store, registry, datasets, adapters, modelRoots } = this.#options;
    store.move(name, JobState.JOB_STATE_VALIDATING);
    const initAdapterPath = await initAdapter(spec.initAdapter, adapters, modelRoots);
    const prepared = await prepareExamples(
      { registry, openDataset: (dataset) => datasets.open(dataset) },
      { ...spec, trainOn: trainOnField.parse(spec.trainOn), overLength: overLengthField.parse(spec.overLength) },
      signal,
    );
    for (const message of prepared.warnings) {
      store.append(name, { $case: 'warning', value: { reason: 'OVER_LENGTH', message } });
    }
    store.move(name, JobState.JOB_STATE_LOADING);
    const lease = await registry.acquire(spec.model);
    try {
      signal.throwIfAborted();
      const { metadata } = lease.model;
      const run = await lease.model.train(configOf(spec, initAdapterPath), prepared.train, prepared.evaluation);
      try {
        store.move(name, JobState.JOB_STATE_RUNNING);
        await this.#follow(name, run, prepared, metadata, signal);
        await this.#keep(name, spec, run, prepared.template, lease.registered.name, metadata);
      } finally {
        run.close();
      }
    } finally {
      lease.release();
    }
  }

  async #follow(
    name: string,
    run: TrainingRun,
    prepared: Awaited<ReturnType<typeof prepareExamples>>,
    metadata: ModelMetadata,
    signal: AbortSignal,
  ): Promise<void> {
    const { store } = this.#options;
    const cancel = (): void => run.cancel();
    if (signal.aborted) cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      for await (const event of run.events()) {
        if (event.kind === 'started') {
          const { train, evaluation, template } = prepared;
          store.append(name, {
            $case: 'plan',
            value: {
              maxSteps: event.maxSteps,
              examples: train.offsets.length - 1,
              evalExamples: evaluation === null ? 0 : evaluation.offsets.length - 1,
              tokens: train.inputIds.length,
              labelTokens: labelTokens(train),
              trainableParameters: event.trainableParameters,
              targetModules: [...event.targetModules],
              template: template === null ? undefined : { ...template },
              baseModelHash: metadata.contentHash,
            },
          });
        } else if (event.kind === 'step') store.append(name, { $case: 'step', value: event.step });
        else if (event.kind === 'evaluation') store.append(name, { $case: 'evaluation', value: event.evaluation });
        else if (event.kind === 'cancelled') throw cancelled();
      }
      signal.throwIfAborted();
    } finally {
      signal.removeEventListener('abort', cancel);
    }
  }

  async #keep(
    name: string,
    spec: TrainingSpec,
    run: TrainingRun,
    template: Awaited<ReturnType<typeof prepareExamples>>['template'],
    baseModel: string,
    metadata: ModelMetadata,
  ): Promise<void> {
    const { store, adapters } = this.#options;
    const id = name.slice(name.indexOf('/') + 1);
    const folder = join(this.#options.folder, id);
    await mkdir(folder, { recursive: true });
    const origin = {
      baseModelName: metadata.name,
      baseModelHash: metadata.contentHash,
      templateId: template?.id ?? '',
      templateHash: template?.hash ?? '',
    };
    const saved = await run.saveAdapter(folder, origin);
    const output = spec.output === '' ? id : spec.output;
    const adapter = await adapters.adopt({ folder, id: output, baseModel, template, trainingJob: name, origin });
    store.append(name, {
      $case: 'adapterSaved',
      value: { adapter: adapter.name, sizeBytes: adapter.sizeBytes, sha256: saved.sha256 },
    });
  }
}

/**
 * The folder of the adapter that a job starts from; null: none.
 * @throws LuthierError ADAPTER_NOT_FOUND, PATH_NOT_ALLOWED
 */
export async function initAdapter(
  name: string,
  adapters: ManagedAdapterStore,
  roots: readonly string[],
): Promise<string | null> {
  if (name === '') return null;
  const isPath = isAbsolute(name) || (/[\\/]/.test(name) && !/^(adapters|trainingJobs)\//.test(name));
  return isPath ? checkPath(name, roots) : adapters.get(name).folder;
}
