/**
 * The closed table of what can go wrong: a reason (ErrorInfo.reason on the wire), the gRPC status it travels as, and whether
 * the same request may succeed when repeated. Clients retry only what is marked retryable.
 */

/** gRPC status codes by name (https://grpc.io/docs/guides/status-codes/). */
export const STATUS = {
  CANCELLED: 1,
  UNKNOWN: 2,
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  DATA_LOSS: 15,
  UNAUTHENTICATED: 16,
} as const;

export type StatusName = keyof typeof STATUS;

interface ReasonEntry {
  readonly status: StatusName;
  readonly retryable: boolean;
}

const entry = (status: StatusName, retryable = false): ReasonEntry => ({ status, retryable });

export const REASONS = {
  // Requests.
  INVALID_REQUEST: entry('INVALID_ARGUMENT'),
  NOT_BUILT_YET: entry('UNIMPLEMENTED'),
  REQUEST_ID_REUSED: entry('INVALID_ARGUMENT'),
  PATH_NOT_ALLOWED: entry('PERMISSION_DENIED'),
  MESSAGE_TOO_LARGE: entry('RESOURCE_EXHAUSTED'),
  CANCELLED: entry('CANCELLED'),
  DEADLINE_EXCEEDED: entry('DEADLINE_EXCEEDED'),
  SERVICE_NOT_FOUND: entry('NOT_FOUND'),
  // Data sets and prompts.
  DATASET_NOT_FOUND: entry('NOT_FOUND'),
  DATASET_EXISTS: entry('ALREADY_EXISTS'),
  DATASET_INVALID: entry('INVALID_ARGUMENT'),
  DATASET_IN_USE: entry('FAILED_PRECONDITION'),
  UPLOAD_INCOMPLETE: entry('ABORTED', true),
  CHECKSUM_MISMATCH: entry('DATA_LOSS', true),
  NO_TRAINABLE_TOKENS: entry('INVALID_ARGUMENT'),
  SEQUENCE_TOO_LONG: entry('INVALID_ARGUMENT'),
  TEMPLATE_NOT_FOUND: entry('INVALID_ARGUMENT'),
  TEMPLATE_UNUSABLE: entry('FAILED_PRECONDITION'),
  TEMPLATE_MISMATCH: entry('FAILED_PRECONDITION'),
  // Models and adapters.
  MODEL_NOT_FOUND: entry('NOT_FOUND'),
  MODEL_CORRUPT: entry('DATA_LOSS'),
  MODEL_UNSUPPORTED: entry('FAILED_PRECONDITION'),
  MODEL_EXISTS: entry('ALREADY_EXISTS'),
  MODEL_CHANGED: entry('FAILED_PRECONDITION'),
  MODEL_IN_USE: entry('FAILED_PRECONDITION', true),
  TOKENIZER_UNSUPPORTED: entry('FAILED_PRECONDITION'),
  ADAPTER_NOT_FOUND: entry('NOT_FOUND'),
  ADAPTER_EXISTS: entry('ALREADY_EXISTS'),
  ADAPTER_CORRUPT: entry('DATA_LOSS'),
  ADAPTER_MISMATCH: entry('FAILED_PRECONDITION'),
  ADAPTER_UNSUPPORTED: entry('FAILED_PRECONDITION'),
  ADAPTER_IN_USE: entry('FAILED_PRECONDITION', true),
  EXPORT_TARGET_NOT_EMPTY: entry('ALREADY_EXISTS'),
  UNKNOWN_TARGET_MODULE: entry('INVALID_ARGUMENT'),
  // Jobs.
  JOB_NOT_FOUND: entry('NOT_FOUND'),
  INVALID_STATE: entry('FAILED_PRECONDITION'),
  QUEUE_FULL: entry('RESOURCE_EXHAUSTED', true),
  LEASE_LOST: entry('ABORTED'),
  SLOW_CONSUMER: entry('ABORTED', true),
  INTERRUPTED: entry('ABORTED', true),
  NON_FINITE_LOSS: entry('INTERNAL'),
  CHECKPOINT_CORRUPT: entry('DATA_LOSS'),
  CHECKPOINT_MISMATCH: entry('FAILED_PRECONDITION'),
  // The server and its machine.
  SERVER_BUSY: entry('RESOURCE_EXHAUSTED', true),
  DRAINING: entry('UNAVAILABLE', true),
  OUT_OF_MEMORY: entry('RESOURCE_EXHAUSTED'),
  STORAGE_FULL: entry('RESOURCE_EXHAUSTED'),
  STORAGE_FAILED: entry('INTERNAL'),
  INTERNAL: entry('INTERNAL'),
} as const satisfies Record<string, ReasonEntry>;

export type Reason = keyof typeof REASONS;
