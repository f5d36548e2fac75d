import type { EventLog, Lease } from './job-store.ts';

/** A runner that is not heard of for so long has lost its jobs; it says three times as often that it lives. */
export const LEASE_MILLISECONDS = 60_000;

/** The event log for what one runner does to the job that it holds: every change is refused with LEASE_LOST once it does not any more. */
export const heldLog = (log: EventLog, lease: Lease): EventLog => ({
  append: (name, event) => log.append(name, event, { lease }),
  move: (name, to, failure, from, actor) => log.move(name, to, failure, from, { ...actor, lease }),
  watch: (...parameters) => log.watch(...parameters),
});
