/** Puts the parts together. This is the only file that knows all of them. */
import { isIPv6 } from 'node:net';
import { openAdapterStore } from './adapters/adapter-store-sqlite.ts';
import { CheckpointStore } from './checkpoints/checkpoint-store.ts';
import { isLoopback, type ServerOptions } from './config/schema.ts';
import { openDatasetStore } from './datasets/dataset-store.ts';
import { openTokenCache } from './datasets/token-cache.ts';
import type { Engine } from './engine/engine.ts';
import { EngineError } from './engine/errors.ts';
import { ServerStartError } from './errors/server-start-error.ts';
import { toLuthierError } from './errors/to-luthier-error.ts';
import { AdapterServiceService } from './gen/luthier/v1/adapter_service.ts';
import { DatasetServiceService } from './gen/luthier/v1/dataset_service.ts';
import { GenerationServiceService } from './gen/luthier/v1/generation_service.ts';
import { ModelServiceService } from './gen/luthier/v1/model_service.ts';
import { TokenizerServiceService } from './gen/luthier/v1/tokenizer_service.ts';
import { JobState, TrainingServiceService } from './gen/luthier/v1/training_service.ts';
import { JobRunner } from './jobs/job-runner.ts';
import { SqliteJobStore } from './jobs/job-store-sqlite.ts';
import { MeasuredRates } from './jobs/measured-rates.ts';
import { callLog } from './logging/call-log.ts';
import { createLogger, type Logger } from './logging/logger.ts';
import { MetricFiles } from './metrics/metric-files.ts';
import { MetricsEndpoint } from './metrics/metrics-endpoint.ts';
import { ServerMetrics } from './metrics/server-metrics.ts';
import { createModelRegistry } from './models/create-model-registry.ts';
import { ImportedModels } from './models/imported-models.ts';
import type { CallRecord } from './rpc/active-calls.ts';
import { RpcServer } from './rpc/rpc-server.ts';
import { createAdapterService } from './services/adapter-service.ts';
import { createDatasetService } from './services/dataset-service.ts';
import { createGenerationService } from './services/generation-service.ts';
import { GenerationSlots } from './services/generation-slots.ts';
import { createModelService } from './services/model-service.ts';
import { createTokenizerService } from './services/tokenizer-service.ts';
import { createTrainingService, usedByJobs } from './services/training-service.ts';
import { openDataFolder } from './store/data-folder.ts';
import { openDatabase } from './store/database.ts';
import { createRequestLog } from './store/sqlite-request-log.ts';
import { WritingFolders } from './store/writing-folders.ts';
import { packageVersion } from './version.ts';

/** A server that is ready to start. */
export interface LuthierServer {
  /**
   * Binds and serves.
   * @returns Where: `host:port` with the port that was taken; `metricsAddress`: null where metrics are not served.
   * @throws ServerStartError where the address cannot be had
   */
  start(): Promise<{ readonly address: string; readonly metricsAddress: string | null }>;
  /** Refuses new calls, ends streams with a retryable status and lets other calls finish for the configured time. */
  drain(reason: string): Promise<void>;
  /** Ends whatever is left and frees everything. Idempotent. */
  close(): Promise<void>;
}

/** What a test or an embedding program brings itself. */
export interface ServerOverrides {
  readonly engine?: Engine;
  readonly logger?: Logger;
}

/** What was opened, to be closed in the opposite order. */
class OpenParts {
  readonly #closers: (() => Promise<void> | void)[] = [];

  add(close: () => Promise<void> | void): void {
    this.#closers.push(close);
  }

  async close(): Promise<void> {
    for (const close of this.#closers.splice(0).reverse()) await close();
  }
}

async function openEngine(options: ServerOptions): Promise<Engine> {
  const { openNativeEngine } = await import('./engine/native.ts');
  try {
    const { device, threads, computeType, embeddingInHostMemory } = options;
    return await openNativeEngine({ device, threads, computeType, embeddingInHostMemory });
  } catch (error) {
    // Whoever starts the server may read what a client may not, such as an engine that was never built.
    if (error instanceof EngineError) throw new ServerStartError(error.message, { cause: error });
    throw error;
  }
}

const hostAndPort = (host: string, port: number): string => `${isIPv6(host) ? `[${host}]` : host}:${port}`;

function startError(error: unknown, address: string, flag: string): ServerStartError {
  const { message } = error as Error;
  const text = /EADDRINUSE/.test(message)
    ? `${address} is taken by another program; stop it or choose another port with ${flag}`
    : /EACCES/.test(message)
      ? `${address} cannot be listened on without more rights; choose a port above 1023 with ${flag}`
      : `cannot listen on ${address}: ${message}`;
  return new ServerStartError(text, { cause: error });
}

/** Null where metrics are not served. */
async function listenForMetrics(
  endpoint: MetricsEndpoint | null,
  wanted: ServerOptions['metricsAddress'],
): Promise<string | null> {
  if (endpoint === null || wanted === null) return null;
  const { host, port } = wanted;
  const taken = await endpoint.listen(host, port).catch((error: unknown) => {
    throw startError(error, hostAndPort(host, port), '--metrics-address');
  });
  return hostAndPort(host, taken);
}

async function assemble(options: ServerOptions, overrides: ServerOverrides, parts: OpenParts): Promise<LuthierServer> {
  const logger = overrides.logger ?? createLogger({ level: options.logLevel, format: options.logFormat });
  const version = packageVersion();

  const folder = await openDataFolder(options.dataDir);
  parts.add(() => folder.close());
  const database = openDatabase(folder.databaseFile);
  parts.add(() => database.close());
  const requestLog = createRequestLog(database);
  const writing = new WritingFolders(database);
  await writing.removeLeftovers();

  const engine = overrides.engine ?? (await openEngine(options));
  parts.add(() => engine.close());
  const jobs = new SqliteJobStore(database);
  const inUse = usedByJobs(jobs);
  const imports = new ImportedModels(database);
  const registry = createModelRegistry({
    engine,
    models: options.models,
    roots: options.modelRoots,
    imports,
    inUse,
    logger,
  });
  parts.add(() => registry.close());
  const datasets = await openDatasetStore({ database, folder: folder.datasets, inUse });
  const tokenCache = await openTokenCache({
    folder: folder.tokenCache,
    maxBytes: options.maxTokenCacheBytes,
    logger,
  });
  const adapters = await openAdapterStore({
    database,
    folder: folder.adapters,
    engine,
    models: registry,
    modelRoots: options.modelRoots,
    exportRoots: options.exportRoots,
    inUse,
  });
  const { modelRoots } = options;
  const rates = new MeasuredRates();
  const checkpoints = new CheckpointStore(folder.checkpoints);
  const metricFiles = options.metricFiles ? new MetricFiles({ folder: folder.runs, store: jobs, logger }) : null;
  if (metricFiles) parts.add(() => metricFiles.close());
  const slots = new GenerationSlots(options.maxConcurrentGenerations);
  const metrics = options.metricsAddress
    ? new ServerMetrics({
        version,
        engine,
        store: jobs,
        tokenCache,
        maxQueuedJobs: options.maxQueuedJobs,
        activeGenerations: () => slots.active,
        logger,
      })
    : null;
  if (metrics) parts.add(() => metrics.close());
  const runner = new JobRunner({
    store: jobs,
    engine,
    registry,
    datasets,
    tokenCache,
    adapters,
    folder: folder.jobs,
    checkpoints,
    modelRoots,
    rates,
    logger,
    onTakenUp: (name) => {
      metricFiles?.follow(name);
      metrics?.follow(name);
    },
  });
  parts.add(() => runner.close());
  parts.add(() => adapters.close());

  const logCall = callLog(logger);
  const onCallEnd = (record: CallRecord): void => {
    logCall(record);
    metrics?.recordCall(record);
  };
  const rpc = new RpcServer({ maxReceiveBytes: options.maxMessageBytes, onCallEnd });
  parts.add(() => rpc.close());
  const endpoint = metrics && new MetricsEndpoint(() => metrics.families(), logger);
  if (endpoint) parts.add(() => endpoint.close());
  const modelService = createModelService({
    registry,
    engine,
    requestLog,
    adaptersOf: (model) => adapters.namesOf(model),
    version,
    maxMessageBytes: options.maxMessageBytes,
    modelRoots: options.modelRoots,
    exportRoots: options.exportRoots,
    writing,
    jobCounts: async () => {
      const unfinished = await jobs.unfinished();
      const count = (wanted: JobState): number => unfinished.filter(({ state }) => state === wanted).length;
      const queued = count(JobState.JOB_STATE_QUEUED);
      return { queued, running: unfinished.length - queued - count(JobState.JOB_STATE_PAUSED) };
    },
    activeGenerations: () => slots.active,
  });
  const generationService = createGenerationService({
    registry,
    adapters,
    slots,
    maxPromptTokens: options.maxPromptTokens,
  });
  rpc.add(ModelServiceService, modelService);
  rpc.add(TokenizerServiceService, createTokenizerService({ registry }));
  rpc.add(GenerationServiceService, generationService, { finishOnDrain: ['generate'] });
  const { maxDatasetBytes } = options;
  rpc.add(DatasetServiceService, createDatasetService({ datasets, registry, requestLog, maxDatasetBytes, logger }));
  const { maxAdapterBytes, exportRoots } = options;
  const merge = { engine, models: registry, exportRoots, writing };
  rpc.add(AdapterServiceService, createAdapterService({ adapters, requestLog, maxAdapterBytes, merge }));
  const { maxQueuedJobs } = options;
  const sources = { engine, registry, datasets, tokenCache, adapters, modelRoots };
  const training = { store: jobs, runner, requestLog, ...sources, maxQueuedJobs, rates, metricFiles, checkpoints };
  rpc.add(TrainingServiceService, createTrainingService(training));

  return {
    start: async () => {
      await runner.start();
      const address = hostAndPort(options.host, options.port);
      const port = await rpc.listen(address).catch((error: unknown) => {
        throw startError(error, address, '--port');
      });
      const bound = hostAndPort(options.host, port);
      const metricsAddress = await listenForMetrics(endpoint, options.metricsAddress);
      if (!isLoopback(options.host))
        logger.warn({ address: bound }, 'other machines can reach this server without authentication');
      const { device, deviceName, computeDtype, attention, deviceReason, gpus } = engine.info();
      logger.info({ device, deviceName, computeDtype, attention, reason: deviceReason, gpus }, 'device');
      logger.info({ address: bound, version }, 'listening');
      metricFiles?.catchUp();
      if (metricsAddress !== null) logger.info({ address: metricsAddress }, 'serving metrics');
      return { address: bound, metricsAddress };
    },
    drain: async (reason) => {
      logger.info({ reason, seconds: options.drainSeconds }, 'draining');
      await rpc.drain(options.drainSeconds * 1000);
    },
    close: () => parts.close(),
  };
}

/**
 * Opens everything that the server needs; `start` then serves.
 * @throws ServerStartError with a message for the person who started it
 */
export async function createServer(options: ServerOptions, overrides: ServerOverrides = {}): Promise<LuthierServer> {
  const parts = new OpenParts();
  try {
    return await assemble(options, overrides, parts);
  } catch (error) {
    await parts.close();
    const known = toLuthierError(error);
    if (known.reason === 'INTERNAL') throw error;
    throw new ServerStartError(known.message, { cause: error });
  }
}
