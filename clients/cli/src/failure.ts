/** Failures and what the process's exit code says about them. */
import { LuthierError, Status } from '../../typescript/src/index.ts';

/** Exit codes that no gRPC status stands behind. */
export const EXIT = {
  ok: 0,
  /** A defect in this program. */
  unexpected: 1,
  /** An unknown command or option, or a value that cannot be read. */
  usage: 2,
  /** The training job ended FAILED. */
  jobFailed: 30,
  /** The training job ended CANCELLED. */
  jobCancelled: 31,
  /** Ctrl-C; as shells report it. */
  interrupted: 130,
} as const;

/** The exit code of a gRPC status: 10 + its number, so that `NOT_FOUND` (5) is 15 and `UNAVAILABLE` (14) is 24. */
export const exitCodeOf = (status: number): number => 10 + status;

/** A failure found on this side. Its message is all that is printed. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exitCode: number;

  constructor(message: string, exitCode: number = EXIT.usage) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Something that has a name and a place, but no code behind it yet. */
export function notBuiltYet(what: string, instead = ''): CliError {
  const hint = instead === '' ? '' : ` ${instead}`;
  return new CliError(`${what} is not built yet.${hint}`, exitCodeOf(Status.UNIMPLEMENTED));
}

/** What goes to standard error, and the exit code. */
export function describeFailure(error: unknown): { readonly lines: readonly string[]; readonly exitCode: number } {
  if (error instanceof CliError) return { lines: [`error: ${error.message}`], exitCode: error.exitCode };
  if (error instanceof LuthierError) {
    const reason = error.reason === '' ? error.status : `${error.status}, ${error.reason}`;
    // A single violation is often the whole message.
    const violations = error.violations
      .filter(({ description }) => !error.message.includes(description))
      .map(({ field, description }) => `  ${field}: ${description}`);
    const retry = error.retryable ? ['The same command may succeed later.'] : [];
    return {
      lines: [`error: ${error.message} (${reason})`, ...violations, ...retry],
      exitCode: exitCodeOf(error.code),
    };
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  return { lines: [`unexpected error: ${text}`], exitCode: EXIT.unexpected };
}
