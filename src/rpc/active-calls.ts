import { randomUUID } from 'node:crypto';
import type { Deadline, Metadata } from '@grpc/grpc-js';
import { LuthierError } from '../errors/luthier-error.ts';
import { REASONS, type Reason, type StatusName } from '../errors/reasons.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { CallContext } from './handlers.ts';
import { type GrpcStatus, grpcStatus } from './status.ts';

/** What every kind of grpc-js server call has. */
export interface SurfaceCall {
  readonly metadata: Metadata;
  getPeer(): string;
  getDeadline(): Deadline;
  on(event: 'cancelled', listener: () => void): unknown;
  off(event: 'cancelled', listener: () => void): unknown;
}

/** What a call does while the server drains: it is refused or answered when new, ended or left to finish when under way. */
export interface DrainPolicy {
  readonly accept: boolean;
  readonly finish: boolean;
}

/** One line of the log. */
export interface CallRecord {
  /** `/luthier.v1.ModelService/ListModels`. */
  readonly method: string;
  readonly callId: string;
  readonly peer: string;
  readonly status: StatusName | 'OK';
  /** Null for OK. */
  readonly reason: Reason | null;
  /** What was thrown, for INTERNAL. */
  readonly error: unknown;
  readonly milliseconds: number;
  /** The client's span, as the header of that name says it; null where it sent none. */
  readonly traceparent: string | null;
}

const drainingError = (): LuthierError =>
  new LuthierError('DRAINING', 'the server is shutting down; repeat the request at another server or when it is back');

/** A call under way: its context for the handler, and its end. */
export interface ActiveCall {
  readonly context: CallContext;
  readonly policy: DrainPolicy;
  /** The handler is done; later cancellations mean nothing. */
  succeed(): void;
  /** What to send for what the handler threw. */
  fail(error: unknown): GrpcStatus;
  abort(reason: LuthierError): void;
}

/** The calls under way, for draining and for the log. */
export class ActiveCalls {
  readonly #active = new Set<ActiveCall>();
  readonly #onEnd: (record: CallRecord) => void;
  #waiting: (() => void)[] = [];
  #draining = false;

  constructor(onEnd: (record: CallRecord) => void) {
    this.#onEnd = onEnd;
  }

  /** True once `drain` was called. */
  get draining(): boolean {
    return this.#draining;
  }

  begin(call: SurfaceCall, method: string, policy: DrainPolicy): ActiveCall {
    const started = performance.now();
    const callId = randomUUID();
    const controller = new AbortController();
    const peer = call.getPeer();
    const deadline = deadlineOf(call);
    // Fires after normal completion too; `settle` detaches it before that.
    const onCancelled = (): void => controller.abort(cancellation(deadline));
    const settle = (error: LuthierError | null): void => {
      call.off('cancelled', onCancelled);
      this.#active.delete(active);
      this.#onEnd({
        method,
        callId,
        peer,
        status: error === null ? 'OK' : REASONS[error.reason].status,
        reason: error?.reason ?? null,
        error: error?.reason === 'INTERNAL' ? (error.cause ?? error) : null,
        milliseconds: performance.now() - started,
        traceparent: call.metadata.get('traceparent')[0]?.toString() ?? null,
      });
      if (!this.#busy()) for (const wake of this.#waiting.splice(0)) wake();
    };
    const active: ActiveCall = {
      context: { signal: controller.signal, deadline, metadata: textMetadata(call), peer, callId },
      policy,
      succeed: () => settle(null),
      fail: (thrown) => {
        // A handler that was cut off may throw whatever the cut led to: the cause is what counts.
        const error = controller.signal.aborted ? (controller.signal.reason as LuthierError) : toLuthierError(thrown);
        settle(error);
        return grpcStatus(error, callId);
      },
      abort: (reason) => controller.abort(reason),
    };
    call.on('cancelled', onCancelled);
    this.#active.add(active);
    if (this.#draining && !policy.accept) controller.abort(drainingError());
    return active;
  }

  /** From now on new calls are refused; calls that are not left to finish end at once. Idempotent. */
  drain(): void {
    this.#draining = true;
    for (const call of this.#active) if (!call.policy.finish) call.abort(drainingError());
  }

  /** Ends the calls that were left to finish. */
  abortUnfinished(): void {
    for (const call of this.#active) if (!call.policy.accept) call.abort(drainingError());
  }

  /** Ends every call. */
  abortAll(): void {
    for (const call of this.#active) call.abort(drainingError());
  }

  /** Resolves when no call is under way but those that are answered while draining (health, reflection). */
  finished(): Promise<void> {
    if (!this.#busy()) return Promise.resolve();
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  #busy(): boolean {
    for (const call of this.#active) if (!call.policy.accept) return true;
    return false;
  }
}

function deadlineOf(call: SurfaceCall): Date | null {
  const deadline = call.getDeadline();
  if (deadline instanceof Date) return deadline;
  return Number.isFinite(deadline) ? new Date(deadline) : null;
}

function cancellation(deadline: Date | null): LuthierError {
  return deadline !== null && Date.now() >= deadline.getTime()
    ? new LuthierError('DEADLINE_EXCEEDED', "the call's deadline passed")
    : new LuthierError('CANCELLED', 'the client cancelled the call or went away');
}

function textMetadata(call: SurfaceCall): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const [key, value] of Object.entries(call.metadata.getMap())) {
    if (typeof value === 'string') values.set(key, value);
  }
  return values;
}
