import type { FieldViolation } from '../errors/luthier-error.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { Reason } from '../errors/reasons.ts';

/** Problems that are told; the rest are counted. */
const MAX_PROBLEMS = 100;

/** The problems of a data set, in order: the first hundred in full, and how many there are. */
export class ProblemList {
  readonly #shown: FieldViolation[] = [];
  #count = 0;

  get shown(): readonly FieldViolation[] {
    return this.#shown;
  }

  get count(): number {
    return this.#count;
  }

  /** True where more problems would only be counted. */
  get full(): boolean {
    return this.#shown.length >= MAX_PROBLEMS;
  }

  add(...problems: readonly FieldViolation[]): void {
    this.#count += problems.length;
    this.#shown.push(...problems.slice(0, Math.max(0, MAX_PROBLEMS - this.#shown.length)));
  }
}

/** Problems whose name is also an error's reason: where a data set has no other ones, the error carries it. */
const REASONS_OF_PROBLEMS: readonly Reason[] = ['NO_TRAINABLE_TOKENS', 'SEQUENCE_TOO_LONG'];

/**
 * The error that refuses a data set for its problems: DATASET_INVALID, or the problems' own reason where all have the same one that is an
 * error's, too (NO_TRAINABLE_TOKENS, SEQUENCE_TOO_LONG).
 */
export function problemsError(what: string, problems: ProblemList): LuthierError {
  const [first] = problems.shown;
  const more = problems.count > 1 ? `, and ${problems.count - 1} more` : '';
  const reason = REASONS_OF_PROBLEMS.find((one) => problems.shown.every((problem) => problem.reason === one));
  return new LuthierError(
    reason ?? 'DATASET_INVALID',
    `${what}: ${first === undefined ? 'it has problems' : `${first.field}: ${first.description}`}${more}`,
    { violations: problems.shown, metadata: { problem_count: String(problems.count) } },
  );
}
