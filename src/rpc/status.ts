import { Metadata } from '@grpc/grpc-js';
import type { LuthierError } from '../errors/luthier-error.ts';
import { REASONS, STATUS } from '../errors/reasons.ts';
import type { Any } from '../gen/google/protobuf/any.ts';
import { BadRequest, ErrorInfo, ResourceInfo, RetryInfo } from '../gen/google/rpc/error_details.ts';
import { Status } from '../gen/google/rpc/status.ts';

/** ErrorInfo.domain of every failure. */
const ERROR_DOMAIN = 'luthier.v1';

/** Where `google.rpc.Status` travels. */
const DETAILS_KEY = 'grpc-status-details-bin';

const DEFAULT_RETRY_MILLISECONDS = 1000;

/**
 * Trailers are headers: Python's gRPC refuses more than 8 KiB of them, and the message counts there percent-encoded, the details in base64.
 * These bounds (bytes of UTF-8) keep the whole below that.
 */
const MESSAGE_BYTES = 900;
const DETAILS_BYTES = 3600;
const TEXT_BYTES = 400;

/** What grpc-js sends. */
export interface GrpcStatus {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

/** The longest start of a text that has at most so many bytes of UTF-8; a cut one ends with `…`. */
function clip(text: string, bytes: number): string {
  const whole = text.toWellFormed();
  if (Buffer.byteLength(whole) <= bytes) return whole;
  const { read } = new TextEncoder().encodeInto(whole, new Uint8Array(bytes - 3));
  return `${whole.slice(0, read)}…`;
}

const any = (name: string, value: Uint8Array): Any => ({
  typeUrl: `type.googleapis.com/google.rpc.${name}`,
  value: Buffer.from(value),
});

function durationOf(milliseconds: number): { seconds: number; nanos: number } {
  const seconds = Math.floor(milliseconds / 1000);
  return { seconds, nanos: Math.round((milliseconds - seconds * 1000) * 1e6) };
}

/** As many violations as fit; `room` in bytes. */
function badRequest(error: LuthierError, room: number): { value: Uint8Array; omitted: number } {
  const request = BadRequest.create({});
  let used = 0;
  for (const violation of error.violations) {
    const next = {
      field: clip(violation.field, TEXT_BYTES),
      description: clip(violation.description, TEXT_BYTES),
      reason: clip(violation.reason, TEXT_BYTES),
    };
    used += Buffer.byteLength(next.field + next.description + next.reason) + 12;
    if (used > room && request.fieldViolations.length > 0) break;
    request.fieldViolations.push(next);
  }
  const omitted = error.violations.length - request.fieldViolations.length;
  return { value: BadRequest.encode(request).finish(), omitted };
}

function detailsOf(error: LuthierError, callId: string): Any[] {
  const details: Any[] = [];
  if (REASONS[error.reason].retryable) {
    const retryDelay = durationOf(error.retryAfterMilliseconds ?? DEFAULT_RETRY_MILLISECONDS);
    details.push(any('RetryInfo', RetryInfo.encode({ retryDelay }).finish()));
  }
  if (error.resource) {
    const resource = ResourceInfo.create({
      resourceType: clip(error.resource.type, TEXT_BYTES),
      resourceName: clip(error.resource.name, TEXT_BYTES),
    });
    details.push(any('ResourceInfo', ResourceInfo.encode(resource).finish()));
  }
  const metadata: Record<string, string> = { call_id: callId };
  for (const [key, value] of Object.entries(error.metadata)) metadata[key] = clip(value, TEXT_BYTES);
  if (error.violations.length > 0) {
    const { value, omitted } = badRequest(error, DETAILS_BYTES - MESSAGE_BYTES - 800);
    if (omitted > 0) metadata.omitted_violations = String(omitted);
    details.push(any('BadRequest', value));
  }
  const info = ErrorInfo.encode({ reason: error.reason, domain: ERROR_DOMAIN, metadata }).finish();
  return [any('ErrorInfo', info), ...details];
}

/**
 * A failure as it travels: the status of its reason, and `google.rpc.Status` with ErrorInfo always, RetryInfo where the same request may
 * succeed later, ResourceInfo and BadRequest where they apply. Long texts are cut so that every client accepts the trailers.
 * @param callId Goes into ErrorInfo.metadata and the log line of the call; INTERNAL names it in the message.
 */
export function grpcStatus(error: LuthierError, callId: string): GrpcStatus {
  const code = STATUS[REASONS[error.reason].status];
  const text =
    error.reason === 'INTERNAL' ? `${error.message}; the server's log names it call ${callId}` : error.message;
  const message = clip(text, MESSAGE_BYTES);
  const status = Status.encode({ code, message, details: detailsOf(error, callId) }).finish();
  const metadata = new Metadata();
  metadata.set(DETAILS_KEY, Buffer.from(status));
  return { code, details: message, metadata };
}
