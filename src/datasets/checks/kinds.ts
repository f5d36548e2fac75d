import type { FieldViolation } from '../../errors/luthier-error.ts';

/** Problems of one kind that are told; the rest are counted. */
const SHOWN = 10;

/** Problems of one kind, such as all duplicates. */
export interface ProblemKind {
  readonly reason: string;
  /** Whether a job would refuse the data set for it. */
  readonly refused: boolean;
  readonly count: number;
  /** The first ones, in order. */
  readonly problems: readonly FieldViolation[];
}

/** Sorts problems by kind, so that a frequent one does not hide a rare one. */
export class ProblemKinds {
  readonly #kinds = new Map<string, { refused: boolean; count: number; problems: FieldViolation[] }>();

  add(refused: boolean, problems: readonly FieldViolation[]): void {
    for (const problem of problems) {
      let kind = this.#kinds.get(problem.reason);
      if (kind === undefined) {
        kind = { refused, count: 0, problems: [] };
        this.#kinds.set(problem.reason, kind);
      }
      kind.count += 1;
      if (kind.problems.length < SHOWN) kind.problems.push(problem);
    }
  }

  /** What is refused first, then the most frequent first. */
  list(): ProblemKind[] {
    return Array.from(this.#kinds, ([reason, kind]) => ({ reason, ...kind })).sort(
      (a, b) => Number(b.refused) - Number(a.refused) || b.count - a.count,
    );
  }
}
