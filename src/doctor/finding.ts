/** What the doctor says of one thing. */
export interface Finding {
  /** The thing, such as `data folder`. */
  readonly name: string;
  /**
   * `ok`; `absent`: not there and not needed; `warning`: the server starts, but not as well as it could; `failure`: it cannot start.
   */
  readonly status: 'ok' | 'absent' | 'warning' | 'failure';
  readonly found: string;
  /** What to do; null where there is nothing to do. */
  readonly advice: string | null;
}

/** A finding without advice. */
export function ok(name: string, found: string): Finding {
  return { name, status: 'ok', found, advice: null };
}

/** A sentence of an error in its parts: what was found, and after the last semicolon what to do. */
export function sentence(problem: string): Pick<Finding, 'found' | 'advice'> {
  const end = problem.lastIndexOf('; ');
  return end < 0 ? { found: problem, advice: null } : { found: problem.slice(0, end), advice: problem.slice(end + 2) };
}

/** Such as `79.1 GiB`. */
export function gibibytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
