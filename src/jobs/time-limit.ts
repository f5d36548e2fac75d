/** Ends a run after the step within which its time is up. Knows nothing of jobs or events. */

/** Longest wait of one timer, milliseconds: 2^31 - 1 (https://nodejs.org/api/timers.html#settimeoutcallback-delay-args). */
const LONGEST_TIMER = 2 ** 31 - 1;

/** The part of a run that is needed. */
interface Stoppable {
  stopAfterStep(): void;
}

/** What is to be closed once the run has ended. */
export interface TimeLimit extends Disposable {
  /** Whether the time was up, and the run was told to end. */
  readonly reached: boolean;
}

/**
 * Counts from now on, by a timer that changes of the date do not move.
 * @param milliseconds Until the step under way is the last one; 0 or less: the first step is.
 */
export function limitTime(run: Stoppable, milliseconds: number): TimeLimit {
  let reached = false;
  let timer: NodeJS.Timeout | undefined;
  const end = performance.now() + milliseconds;
  const wait = (): void => {
    const left = end - performance.now();
    if (left > 0) {
      timer = setTimeout(wait, Math.min(Math.ceil(left), LONGEST_TIMER));
      return;
    }
    reached = true;
    run.stopAfterStep();
  };
  wait();
  return {
    get reached() {
      return reached;
    },
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}
