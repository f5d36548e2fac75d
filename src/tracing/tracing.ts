/** Traces for whoever asks for them: spans of calls and jobs, sent to a collector by OTLP over HTTP. Loaded only where an endpoint is set. */
import { DiagLogLevel, diag, type Tracer } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { AlwaysOnSampler, BatchSpanProcessor, ParentBasedSampler, TracerProvider } from '@opentelemetry/sdk-trace';
import type { CallRecord } from '../rpc/active-calls.ts';
import { recordCall } from './call-spans.ts';
import { ChosenIds } from './chosen-ids.ts';
import { JobSpans, type JobSpansOptions } from './job-spans.ts';

export interface TracingOptions extends Omit<JobSpansOptions, 'tracer' | 'ids'> {
  /** The collector, such as `http://127.0.0.1:4318`; `/v1/traces` is added. */
  readonly endpoint: string;
  readonly version: string;
}

/** Of one attempt to send; also what closing waits at most. */
const TIMEOUT_MILLISECONDS = 3000;

export class Tracing {
  readonly #provider: TracerProvider;
  readonly #tracer: Tracer;
  readonly #jobs: JobSpans;
  readonly #warn: (message: string) => void;

  constructor({ endpoint, version, store, logger }: TracingOptions) {
    const warn = (message: string): void => logger.warn({ endpoint, message }, 'traces could not be sent');
    this.#warn = warn;
    const nothing = (): void => {};
    diag.setLogger(
      { error: warn, warn, info: nothing, debug: nothing, verbose: nothing },
      { logLevel: DiagLogLevel.WARN, suppressOverrideMessage: true },
    );
    const ids = new ChosenIds();
    this.#provider = new TracerProvider({
      idGenerator: ids,
      resource: resourceFromAttributes({ 'service.name': 'luthier', 'service.version': version }),
      // A client that was told not to sample its trace does not want our part of it either.
      sampler: new ParentBasedSampler({ root: new AlwaysOnSampler() }),
      spanProcessors: [
        new BatchSpanProcessor({
          exporter: new OTLPTraceExporter({
            url: new URL('v1/traces', withSlash(endpoint)).href,
            timeoutMillis: TIMEOUT_MILLISECONDS,
          }),
        }),
      ],
    });
    this.#tracer = this.#provider.getTracer('luthier', version);
    this.#jobs = new JobSpans({ tracer: this.#tracer, ids, store, logger });
  }

  recordCall(record: CallRecord): void {
    recordCall(this.#tracer, record);
  }

  /** Traces a job from its place in the queue until it has ended or waits again. */
  follow(name: string): void {
    this.#jobs.follow(name);
  }

  /** Sends what there is, for a few seconds at most. */
  async close(): Promise<void> {
    await this.#jobs.close();
    await this.#provider.shutdown().catch((error: unknown) => this.#warn(String(error)));
  }
}

const withSlash = (url: string): string => (url.endsWith('/') ? url : `${url}/`);
