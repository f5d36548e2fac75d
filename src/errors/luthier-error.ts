import type { Reason } from './reasons.ts';

/** A field of a request, or a place in its data, that is wrong: `BadRequest.field_violations` on the wire. */
export interface FieldViolation {
  /** Such as `spec.learning_rate` or `line[7].messages[1].content`. */
  readonly field: string;
  /** What was expected, what was found and what to do. */
  readonly description: string;
  /** A stable name of the kind of problem; empty where the error's own reason says it all. */
  readonly reason: string;
}

/** What was looked for: `ResourceInfo` on the wire. */
export interface ResourceReference {
  /** Such as `dataset` or `model`. */
  readonly type: string;
  readonly name: string;
}

export interface LuthierErrorOptions extends ErrorOptions {
  readonly violations?: readonly FieldViolation[];
  readonly resource?: ResourceReference;
  /** Goes into ErrorInfo.metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** For retryable reasons: how long to wait. */
  readonly retryAfterMilliseconds?: number;
}

/** A failure that a client is told about. Anything else that is thrown becomes INTERNAL with a correlation id and no details. */
export class LuthierError extends Error {
  override readonly name = 'LuthierError';
  readonly reason: Reason;
  readonly violations: readonly FieldViolation[];
  readonly resource: ResourceReference | null;
  readonly metadata: Readonly<Record<string, string>>;
  readonly retryAfterMilliseconds: number | null;

  constructor(reason: Reason, message: string, options: LuthierErrorOptions = {}) {
    super(message, options);
    this.reason = reason;
    this.violations = options.violations ?? [];
    this.resource = options.resource ?? null;
    this.metadata = options.metadata ?? {};
    this.retryAfterMilliseconds = options.retryAfterMilliseconds ?? null;
  }
}
