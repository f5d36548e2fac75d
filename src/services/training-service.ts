import { z } from 'zod';
import type { CheckpointStore } from '../checkpoints/checkpoint-store.ts';
import { defaultTemplate } from '../datasets/formats.ts';
import type { Engine } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import {
  DeleteTrainingJobRequest,
  DeleteTrainingJobResponse,
  JobState,
  PauseTrainingJobRequest,
  PauseTrainingJobResponse,
  ResumeTrainingJobRequest,
  ResumeTrainingJobResponse,
  TrainingJob,
  type TrainingServiceService,
  type WatchTrainingJobResponse,
} from '../gen/luthier/v1/training_service.ts';
import { deleteJob } from '../jobs/delete-job.ts';
import { findInitAdapter, loraConfig } from '../jobs/engine-config.ts';
import { type EstimateJobDependencies, estimateJob } from '../jobs/estimate-job.ts';
import type { JobRunner } from '../jobs/job-runner.ts';
import type { AuditLog, EventLog, JobStore, Requester } from '../jobs/job-store.ts';
import type { MetricFiles } from '../metrics/metric-files.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import type { CallContext } from '../rpc/handlers.ts';
import type { RequestLog } from '../store/request-log.ts';
import { answerOnce } from './answer-once.ts';
import { withHeartbeats } from './heartbeats.ts';
import { optionalName, page, requestId, resourceName, wholeNumber } from './validate/fields.ts';
import { labelsField } from './validate/labels.ts';
import { parseRequest } from './validate/parse-request.ts';
import {
  type CheckedSpec,
  createSchema,
  estimateSchema,
  refuseNotBuilt,
  refuseWithoutUse,
  specMessage,
  trainSchema,
} from './validate/training.ts';

export interface TrainingServiceDependencies extends EstimateJobDependencies {
  readonly engine: EstimateJobDependencies['engine'] & Pick<Engine, 'checkTargets'>;
  readonly store: JobStore & EventLog & AuditLog;
  readonly runner: JobRunner;
  readonly requestLog: RequestLog;
  readonly maxQueuedJobs: number;
  /** Null: none are written. */
  readonly metricFiles: Pick<MetricFiles, 'remove'> | null;
  readonly checkpoints: Pick<CheckpointStore, 'remove'>;
}

const DEFAULT_PAGE_SIZE = 50;

const name = resourceName('a job: `trainingJobs/{id}`');
const getSchema = z.object({ name });
const cancelSchema = z.object({ name, requestId });
const deleteSchema = z.object({ name, requestId });
const pauseSchema = z.object({ name, requestId });
const resumeSchema = z.object({ name, requestId });
const auditSchema = z.object({ ...page, job: optionalName });
const watchSchema = z.object({
  name,
  afterSequence: wholeNumber(0, 2 ** 32 - 1),
  coalesceSteps: z.boolean(),
  heartbeatSeconds: wholeNumber(0, 3600),
});
const listSchema = z.object({
  ...page,
  states: z.array(z.custom<JobState>((value) => typeof value === 'number')),
  labels: labelsField,
});

const requesterOf = ({ peer, callId }: CallContext): Requester => ({ peer, callId });

const tokenOfNumber = (number: number | undefined): string => Buffer.from(String(number ?? '')).toString('base64url');

function numberOfToken(token: string): number | null {
  if (token === '') return null;
  const number = Number(Buffer.from(token, 'base64url').toString());
  if (Number.isSafeInteger(number) && number > 0) return number;
  throw new LuthierError('INVALID_REQUEST', 'page_token: expected a next_page_token of the same list', {
    violations: [{ field: 'page_token', description: 'expected a next_page_token of the same list', reason: '' }],
  });
}

/** Of names that are ends of longer module paths, the last component. */
const componentOf = (module: string): string => module.slice(module.lastIndexOf('.') + 1);

function checkNames(field: string, names: readonly string[], known: readonly string[]): void {
  const wrong = names.findIndex((name) => !known.includes(componentOf(name)));
  if (wrong < 0) return;
  const path = `spec.lora.${field}[${wrong}]`;
  const description = `expected one of ${known.join(', ')}, found ${JSON.stringify(names[wrong])}`;
  throw new LuthierError('UNKNOWN_TARGET_MODULE', `${path}: ${description}`, {
    violations: [{ field: path, description, reason: '' }],
  });
}

function checkTargets(engine: Pick<Engine, 'checkTargets'>, spec: CheckedSpec, modules: readonly string[]): void {
  const { lora } = spec;
  checkNames('target_modules', lora.targetModules, [...modules, 'all-linear']);
  checkNames('exclude_modules', lora.excludeModules, modules);
  try {
    engine.checkTargets(loraConfig(specMessage(spec)));
  } catch (error) {
    const { reason, message } = toLuthierError(error);
    const violations = [{ field: 'spec.lora', description: message, reason: '' }];
    throw new LuthierError(reason, `spec.lora: ${message}`, { cause: error, violations });
  }
}

/** TrainingService: jobs that outlive their streams. */
export function createTrainingService(
  dependencies: TrainingServiceDependencies,
): HandlersOf<typeof TrainingServiceService> {
  const { store, runner, requestLog, registry, datasets, adapters, metricFiles, checkpoints } = dependencies;

  /** Everything that can be checked without work. */
  async function check(spec: CheckedSpec): Promise<void> {
    const engine = dependencies.engine.info();
    refuseNotBuilt(spec, engine);
    refuseWithoutUse(spec, engine.device);
    await registry.checkFiles(spec.model);
    const { metadata } = await registry.get(spec.model);
    checkTargets(dependencies.engine, spec, metadata.linearModules);
    const { format } = datasets.open(spec.dataset);
    if (spec.evalDataset !== '') datasets.get(spec.evalDataset);
    if (format !== 'tokens') await registry.renderer(spec.model, defaultTemplate(format, spec.template));
    await findInitAdapter(spec.initAdapter, adapters, dependencies.modelRoots);
    if (spec.output !== '' && adapters.has(`adapters/${spec.output}`)) {
      throw new LuthierError('ADAPTER_EXISTS', `adapters/${spec.output} is there already; choose another output`, {
        resource: { type: 'adapter', name: `adapters/${spec.output}` },
      });
    }
  }

  async function create(spec: CheckedSpec, request: string, requester: Requester): Promise<TrainingJob> {
    const message = specMessage(spec);
    const earlier = await store.findRequest(message, request);
    if (earlier) return earlier;
    await check(spec);
    const queued = (await store.queued()).length;
    if (queued >= dependencies.maxQueuedJobs) {
      throw new LuthierError('QUEUE_FULL', `${queued} jobs are waiting, which is this server's limit; repeat later`);
    }
    const job = await store.create(message, request, { requester });
    runner.wake();
    return store.get(job.name);
  }

  /** With their places in the queue, which is read once for all. */
  async function shown(jobs: readonly TrainingJob[]): Promise<TrainingJob[]> {
    const waits = ({ state }: TrainingJob): boolean => state === JobState.JOB_STATE_QUEUED;
    const queue = jobs.some(waits) ? (await store.queued()).map(({ name }) => name) : [];
    return jobs.map((job) => (waits(job) ? { ...job, queuePosition: queue.indexOf(job.name) + 1 } : job));
  }

  const shownOne = async (job: TrainingJob): Promise<TrainingJob> => (await shown([job]))[0] ?? job;

  return {
    train: async function* (request, context) {
      const { signal } = context;
      const { target, requestId: id, afterSequence } = parseRequest(trainSchema, request);
      const job =
        target.$case === 'job' ? await store.get(target.value) : await create(target.value, id, requesterOf(context));
      for await (const event of store.watch(job.name, afterSequence, signal)) yield { event };
    },

    createTrainingJob: async (request, context) => {
      const { spec, requestId: id, validateOnly } = parseRequest(createSchema, request);
      if (!validateOnly) return { job: await shownOne(await create(spec, id, requesterOf(context))) };
      await check(spec);
      return { job: TrainingJob.create({ spec: specMessage(spec) }) };
    },

    estimateTrainingJob: async (request, { signal }) => {
      const { spec } = parseRequest(estimateSchema, request);
      await check(spec);
      return estimateJob(dependencies, specMessage(spec), signal);
    },

    getTrainingJob: async (request) => ({
      job: await shownOne(await store.get(parseRequest(getSchema, request).name)),
    }),

    listTrainingJobs: async (request) => {
      const { pageSize, pageToken, states, labels } = parseRequest(listSchema, request);
      const size = pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize;
      const found = await store.list(numberOfToken(pageToken), size + 1, { states, labels });
      const items = found.slice(0, size);
      const jobs = await shown(items.map(({ job }) => job));
      return { jobs, nextPageToken: found.length > size ? tokenOfNumber(items.at(-1)?.number) : '' };
    },

    watchTrainingJob: async function* (request, { signal }) {
      const { name: job, afterSequence, coalesceSteps, heartbeatSeconds } = parseRequest(watchSchema, request);
      const open = (until: AbortSignal) => store.watch(job, afterSequence, until, coalesceSteps);
      for await (const event of withHeartbeats(open, signal, heartbeatSeconds * 1000))
        yield { event: event ?? undefined };
    },

    // Cancelling what has ended changes nothing, so `request_id` has nothing to remember.
    cancelTrainingJob: async (request, context) => ({
      job: await runner.cancel(parseRequest(cancelSchema, request).name, requesterOf(context)),
    }),

    pauseTrainingJob: async (request, context) => {
      const { name: job, requestId: id } = parseRequest(pauseSchema, request);
      const bytes = PauseTrainingJobRequest.encode(request).finish();
      const call = { requestId: id, method: 'PauseTrainingJob', request: bytes };
      return answerOnce(requestLog, call, PauseTrainingJobResponse, async () => ({
        job: await runner.pause(job, requesterOf(context)),
      }));
    },

    resumeTrainingJob: async (request, context) => {
      const { name: job, requestId: id } = parseRequest(resumeSchema, request);
      const bytes = ResumeTrainingJobRequest.encode(request).finish();
      const call = { requestId: id, method: 'ResumeTrainingJob', request: bytes };
      return answerOnce(requestLog, call, ResumeTrainingJobResponse, async () => ({
        job: await shownOne(await runner.resume(job, requesterOf(context))),
      }));
    },

    deleteTrainingJob: async (request, context) => {
      const { name: job, requestId: id } = parseRequest(deleteSchema, request);
      const bytes = DeleteTrainingJobRequest.encode(request).finish();
      const call = { requestId: id, method: 'DeleteTrainingJob', request: bytes };
      return answerOnce(requestLog, call, DeleteTrainingJobResponse, async (remember) => {
        await deleteJob({ store, metricFiles, checkpoints }, job, { requester: requesterOf(context) }, (change) =>
          remember(change, () => ({})),
        );
        return {};
      });
    },

    listAuditEntries: async (request) => {
      const { pageSize, pageToken, job } = parseRequest(auditSchema, request);
      const size = pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize;
      const found = await store.auditEntries(numberOfToken(pageToken), size + 1, job);
      const entries = found.slice(0, size);
      return { entries, nextPageToken: found.length > size ? tokenOfNumber(entries.at(-1)?.entryNumber) : '' };
    },
  };
}

/** Where a stream of events is to be opened again; for `ServiceOptions.resumable`. */
export function resumeAfter(response: unknown): Readonly<Record<string, string>> {
  const { event } = response as WatchTrainingJobResponse;
  return event ? { after_sequence: String(event.sequence) } : {};
}

/** Whether a job that has not ended names a model, a data set or an adapter so. */
export function usedByJobs(store: JobStore): (resource: string) => Promise<boolean> {
  return async (resource) =>
    (await store.unfinished()).some(({ spec }) =>
      [spec?.model, spec?.dataset, spec?.evalDataset, spec?.initAdapter].includes(resource),
    );
}
