/** Everything that the metrics page tells. */
import type { TokenCache } from '../datasets/token-cache.ts';
import type { Engine } from '../engine/engine.ts';
import { JobState } from '../gen/luthier/v1/training_service.ts';
import { label } from '../jobs/job-state.ts';
import type { EventLog, JobStore } from '../jobs/job-store.ts';
import type { Logger } from '../logging/logger.ts';
import type { CallRecord } from '../rpc/active-calls.ts';
import { CallMetrics } from './call-metrics.ts';
import { type Family, gauge } from './exposition.ts';
import { ProcessMetrics } from './process-metrics.ts';
import { TrainingMetrics } from './training-metrics.ts';

export interface ServerMetricsOptions {
  readonly version: string;
  readonly engine: Pick<Engine, 'info'>;
  readonly store: Pick<JobStore, 'get' | 'countByState'> & Pick<EventLog, 'watch'>;
  readonly tokenCache: Pick<TokenCache, 'bytes'>;
  readonly maxQueuedJobs: number;
  readonly activeGenerations: () => number;
  readonly logger: Pick<Logger, 'warn'>;
}

const STATES = Object.values(JobState).filter((state) => state > JobState.JOB_STATE_UNSPECIFIED);

export class ServerMetrics {
  readonly #options: ServerMetricsOptions;
  readonly #calls = new CallMetrics();
  readonly #process = new ProcessMetrics();
  readonly #training: TrainingMetrics;

  constructor(options: ServerMetricsOptions) {
    this.#options = options;
    this.#training = new TrainingMetrics(options);
  }

  /** Counts a call that has ended. */
  recordCall(record: CallRecord): void {
    this.#calls.record(record);
  }

  /** Counts what a job does from now on. */
  follow(name: string): void {
    this.#training.follow(name);
  }

  async close(): Promise<void> {
    this.#process.close();
    await this.#training.close();
  }

  /** @throws the database's and the file system's errors */
  async families(): Promise<Family[]> {
    const { version, engine, store, tokenCache, maxQueuedJobs, activeGenerations } = this.#options;
    const counts = await store.countByState();
    const { device, deviceName, totalMemoryBytes } = engine.info();
    const info = { version, device, device_name: deviceName };
    return [
      { name: 'luthier_info', type: 'gauge', help: 'Always 1.', samples: [{ labels: info, value: 1 }] },
      gauge('luthier_device_memory_bytes', "The device's memory.", totalMemoryBytes),
      {
        name: 'luthier_jobs',
        type: 'gauge',
        help: 'Stored training jobs by state.',
        samples: STATES.map((state) => ({
          labels: { state: label(state).toLowerCase() },
          value: counts.get(state) ?? 0,
        })),
      },
      gauge('luthier_job_queue_length', 'Jobs that wait.', counts.get(JobState.JOB_STATE_QUEUED) ?? 0),
      gauge('luthier_job_queue_limit', 'Jobs that may wait.', maxQueuedJobs),
      ...this.#training.families(),
      gauge('luthier_generations_active', 'Generations and scorings under way.', activeGenerations()),
      gauge('luthier_token_cache_bytes', 'Token files that are kept.', await tokenCache.bytes()),
      ...this.#calls.families(),
      ...this.#process.families(),
    ];
  }
}
