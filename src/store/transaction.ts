import type { Database } from './database.ts';

/** Runs a synchronous action in one transaction; within another one, as a part of it. */
export function transaction<Result>(database: Database, action: () => Result): Result {
  if (database.isTransaction) return action();
  database.exec('BEGIN IMMEDIATE');
  try {
    const result = action();
    database.exec('COMMIT');
    return result;
  } catch (error) {
    // A full disk may have ended the transaction already.
    if (database.isTransaction) database.exec('ROLLBACK');
    throw error;
  }
}
