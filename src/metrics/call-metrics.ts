import type { CallRecord } from '../rpc/active-calls.ts';
import type { Family } from './exposition.ts';
import { Histogram } from './histogram.ts';

/** Seconds: from an answer out of memory to a stream that watches a job. */
const BOUNDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800];

/** gRPC calls that have ended. Methods are those of the contract: calls of others never reach a handler. */
export class CallMetrics {
  /** By method, then status. */
  readonly #durations = new Map<string, Map<string, Histogram>>();

  record({ method, status, milliseconds }: Pick<CallRecord, 'method' | 'status' | 'milliseconds'>): void {
    const byStatus = this.#durations.get(method) ?? new Map<string, Histogram>();
    this.#durations.set(method, byStatus);
    const histogram = byStatus.get(status) ?? new Histogram(BOUNDS);
    byStatus.set(status, histogram);
    histogram.observe(milliseconds / 1000);
  }

  families(): Family[] {
    const samples = [...this.#durations].flatMap(([method, byStatus]) =>
      [...byStatus].flatMap(([status, histogram]) => histogram.samples({ method: method.slice(1), status })),
    );
    const help = 'Duration of gRPC calls that have ended; a stream is one call.';
    return [{ name: 'luthier_grpc_call_duration_seconds', type: 'histogram', help, samples }];
  }
}
