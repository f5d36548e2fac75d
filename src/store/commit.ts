/** Runs a synchronous change of the database, perhaps with others in one transaction: all of them are made or none is. */
export type Commit = (change: () => void) => void;

/** A change by itself. */
export const alone: Commit = (change) => change();
