/** The parent's side of `watcher.ts`: one process with its watchers, and how far they are. */
import { startProgram } from './children.ts';
import type { WatcherReport } from './watcher.ts';

type Ended = Extract<WatcherReport, { kind: 'ended' }>;

/** A running process. All three promises reject where it fails. */
export class WatcherProcess {
  /** Once every watcher had its first event. */
  readonly attached = Promise.withResolvers<void>();
  /** Once every watcher that breaks off had an event after its last return. */
  readonly returned = Promise.withResolvers<void>();
  /** Every watcher's last report. */
  readonly ended: Promise<readonly Ended[]>;
  /** Gives the word after which watchers break off a second time. */
  readonly tell: () => void;

  constructor(address: string, job: string, numbers: readonly number[], env: NodeJS.ProcessEnv) {
    const program = startProgram<WatcherReport>(
      new URL('./watcher.ts', import.meta.url),
      [address, job, ...numbers.map(String)],
      env,
    );
    this.tell = program.tell;
    const returning = numbers.filter((number) => number % 2 === 1).length;
    if (returning === 0) this.returned.resolve();
    this.ended = this.#follow(program.reports, numbers.length, returning);
    for (const one of [this.ended, this.attached.promise, this.returned.promise]) one.catch(() => {});
  }

  async #follow(reports: AsyncIterable<WatcherReport>, watchers: number, returning: number): Promise<readonly Ended[]> {
    const counts = { attached: 0, returned: 0 };
    const ended: Ended[] = [];
    try {
      for await (const report of reports) {
        if (report.kind === 'ended') ended.push(report);
        else counts[report.kind] += 1;
        if (counts.attached === watchers) this.attached.resolve();
        if (counts.returned === returning) this.returned.resolve();
      }
    } catch (error) {
      this.attached.reject(error);
      this.returned.reject(error);
      throw error;
    }
    return ended;
  }
}
