import { createHash } from 'node:crypto';
import { LuthierError } from '../errors/luthier-error.ts';
import type { Database } from './database.ts';
import type { Remember, RequestLog } from './request-log.ts';
import { transaction } from './transaction.ts';

/** The table, for the database's list of migrations. `request_hash` is SHA-256 of the encoded request; hex. */
export const REQUEST_TABLE = `CREATE TABLE requests (
  request_id TEXT PRIMARY KEY,
  method TEXT NOT NULL,
  request_hash TEXT NOT NULL,
  response BLOB NOT NULL,
  create_time INTEGER NOT NULL
) STRICT`;

/** Nobody repeats a request after this time. */
const KEEP_MILLISECONDS = 30 * 24 * 3600 * 1000;

interface Answered {
  readonly method: string;
  readonly hash: string;
  readonly response: Promise<Uint8Array>;
}

function checkSame(requestId: string, earlier: { method: string; hash: string }, method: string, hash: string): void {
  if (earlier.method === method && earlier.hash === hash) return;
  const what = earlier.method === method ? `another request of ${method}` : earlier.method;
  throw new LuthierError(
    'REQUEST_ID_REUSED',
    `request_id ${requestId} was used for ${what}; use a new one for each request`,
    {
      violations: [{ field: 'request_id', description: 'expected one that was not used before', reason: '' }],
    },
  );
}

/** The request log in the database. */
export function createRequestLog(database: Database): RequestLog {
  database.prepare('DELETE FROM requests WHERE create_time < ?').run(Date.now() - KEEP_MILLISECONDS);
  const find = database.prepare('SELECT method, request_hash, response FROM requests WHERE request_id = ?');
  const insert = database.prepare('INSERT INTO requests VALUES (?, ?, ?, ?, ?)');
  const underway = new Map<string, Answered>();

  return {
    once: async (requestId, method, request, action) => {
      if (requestId === '') return action((change) => change());
      const hash = createHash('sha256').update(request).digest('hex');
      const row = find.get(requestId);
      if (row) {
        checkSame(requestId, { method: String(row.method), hash: String(row.request_hash) }, method, hash);
        return row.response as Uint8Array;
      }
      const running = underway.get(requestId);
      if (running) {
        checkSame(requestId, running, method, hash);
        return running.response;
      }
      let remembered = false;
      const store = (bytes: Uint8Array): void => {
        insert.run(requestId, method, hash, bytes, Date.now());
        remembered = true;
      };
      const remember: Remember = (change, answer) =>
        transaction(database, () => {
          const result = change();
          store(answer(result));
          return result;
        });
      const response = action(remember).then((bytes) => {
        if (!remembered) store(bytes);
        return bytes;
      });
      underway.set(requestId, { method, hash, response });
      try {
        return await response;
      } finally {
        underway.delete(requestId);
      }
    },
  };
}
