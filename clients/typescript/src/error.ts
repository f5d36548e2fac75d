/** The error of every failed call, decoded from `google.rpc.Status` in the trailers. */
import type { ServiceError } from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, ResourceInfo, RetryInfo } from './gen/google/rpc/error_details.ts';
import { Status as RpcStatus } from './gen/google/rpc/status.ts';
import { Status, type StatusName, statusName } from './status.ts';

/** A field of a request, or a place in its data, that is wrong. */
export interface FieldViolation {
  /** Such as `spec.learning_rate` or `line[7].messages[1].content`. */
  readonly field: string;
  /** What was expected, what was found and what to do. */
  readonly description: string;
  /** A stable name of the kind of problem; may be empty. */
  readonly reason: string;
}

/** What a call looked for and did not find, or found where nothing may be. */
export interface ResourceReference {
  /** Such as `dataset` or `model`. */
  readonly type: string;
  readonly name: string;
}

export interface LuthierErrorOptions extends ErrorOptions {
  /** gRPC status code. */
  readonly code: number;
  readonly reason?: string;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly violations?: readonly FieldViolation[];
  readonly resource?: ResourceReference | null;
  readonly retryable?: boolean;
  readonly retryDelayMs?: number | null;
}

/** Why a call failed. */
export class LuthierError extends Error {
  override readonly name = 'LuthierError';
  /** gRPC status code. */
  readonly code: number;
  /** gRPC status name, such as `NOT_FOUND`. */
  readonly status: StatusName;
  /** A stable name of the cause, such as `DATASET_NOT_FOUND`; empty where the server did not answer itself. */
  readonly reason: string;
  /** More about the cause, by key. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];
  readonly resource: ResourceReference | null;
  /** Whether the same call may succeed when repeated. */
  readonly retryable: boolean;
  /** How long the server asks to wait before a repetition, in milliseconds. */
  readonly retryDelayMs: number | null;

  constructor(message: string, options: LuthierErrorOptions) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = options.code;
    this.status = statusName(options.code);
    this.reason = options.reason ?? '';
    this.metadata = options.metadata ?? {};
    this.violations = options.violations ?? [];
    this.resource = options.resource ?? null;
    this.retryable = options.retryable ?? options.code === Status.UNAVAILABLE;
    this.retryDelayMs = options.retryDelayMs ?? null;
  }
}

type Details = Omit<LuthierErrorOptions, 'code' | 'cause'> & { readonly message?: string };

const typeName = (url: string): string => url.slice(url.lastIndexOf('/') + 1);

/** The details of a serialized `google.rpc.Status`; empty where the bytes are none. */
function decodeDetails(bytes: Uint8Array): Details {
  let status: RpcStatus;
  try {
    status = RpcStatus.decode(bytes);
  } catch {
    return {};
  }
  let details: Details = status.message === '' ? {} : { message: status.message };
  for (const any of status.details) {
    try {
      details = { ...details, ...decodeDetail(typeName(any.typeUrl), any.value) };
    } catch {
      // A detail this version cannot read takes nothing from the others.
    }
  }
  return details;
}

function decodeDetail(type: string, value: Uint8Array): Details {
  switch (type) {
    case 'google.rpc.ErrorInfo': {
      const { reason, metadata } = ErrorInfo.decode(value);
      return { reason, metadata };
    }
    case 'google.rpc.BadRequest':
      return { violations: BadRequest.decode(value).fieldViolations };
    case 'google.rpc.ResourceInfo': {
      const { resourceType, resourceName } = ResourceInfo.decode(value);
      return { resource: { type: resourceType, name: resourceName } };
    }
    case 'google.rpc.RetryInfo': {
      const delay = RetryInfo.decode(value).retryDelay;
      return {
        retryable: true,
        ...(delay === undefined ? {} : { retryDelayMs: delay.seconds * 1000 + delay.nanos / 1e6 }),
      };
    }
    default:
      return {};
  }
}

const isServiceError = (error: unknown): error is ServiceError =>
  error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error;

/** A LuthierError of anything that a call can throw. `what` is the method's name. */
export function toLuthierError(error: unknown, what: string): LuthierError {
  if (error instanceof LuthierError) return error;
  if (!isServiceError(error)) {
    const message = error instanceof Error ? error.message : String(error);
    return new LuthierError(`${what}: ${message}`, { code: Status.UNKNOWN, cause: error });
  }
  const bytes = error.metadata?.get('grpc-status-details-bin')[0];
  const { message, ...details } = bytes instanceof Uint8Array ? decodeDetails(bytes) : {};
  return new LuthierError(message ?? error.details, { code: error.code, ...details, cause: error });
}
