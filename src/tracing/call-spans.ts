/** One span for each call, named and described as OpenTelemetry's conventions for gRPC ask (https://opentelemetry.io/docs/specs/semconv/rpc/grpc/). */
import {
  type Context,
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api';
import { STATUS, type StatusName } from '../errors/reasons.ts';
import type { CallRecord } from '../rpc/active-calls.ts';

/** Codes that are the server's fault by those conventions; others leave a server's span unset. */
const FAULTS: ReadonlySet<StatusName | 'OK'> = new Set([
  'UNKNOWN',
  'DEADLINE_EXCEEDED',
  'UNIMPLEMENTED',
  'INTERNAL',
  'UNAVAILABLE',
  'DATA_LOSS',
]);

/** The client's span (https://www.w3.org/TR/trace-context/#traceparent-header); none, or one that cannot be read: a new trace. */
function parentOf(traceparent: string | null): Context {
  const [, traceId, spanId, flags] =
    /^[\da-f]{2}-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})/.exec(traceparent ?? '') ?? [];
  if (
    traceId === undefined ||
    spanId === undefined ||
    flags === undefined ||
    /^0+$/.test(traceId) ||
    /^0+$/.test(spanId)
  ) {
    return ROOT_CONTEXT;
  }
  const traceFlags = Number.parseInt(flags, 16) & TraceFlags.SAMPLED;
  return trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId, traceFlags, isRemote: true });
}

/** Records a call that has ended. */
export function recordCall(
  tracer: Tracer,
  { method, callId, peer, status, reason, milliseconds, traceparent }: CallRecord,
): void {
  const end = Date.now();
  const [service = '', name = ''] = method.slice(1).split('/');
  const span = tracer.startSpan(
    method.slice(1),
    {
      kind: SpanKind.SERVER,
      startTime: end - milliseconds,
      attributes: {
        'rpc.system': 'grpc',
        'rpc.service': service,
        'rpc.method': name,
        'rpc.grpc.status_code': status === 'OK' ? 0 : STATUS[status],
        'client.address': peer,
        'luthier.call_id': callId,
        ...(reason === null ? {} : { 'error.type': reason }),
      },
    },
    parentOf(traceparent),
  );
  if (FAULTS.has(status)) span.setStatus({ code: SpanStatusCode.ERROR });
  span.end(end);
}
