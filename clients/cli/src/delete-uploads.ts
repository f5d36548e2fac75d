/** Data sets that were uploaded for one command only: for a job that there is not, or to be looked at. */
import { LuthierError } from '../../typescript/src/index.ts';
import type { Session } from './connection.ts';
import { printLine } from './io.ts';

/**
 * Deletes them. Where a job reads them after all, which a client has not seen, the server keeps them; any other failure is told, and no reason
 * to fail.
 */
export async function deleteUploads({ client, io }: Session, uploaded: readonly string[]): Promise<void> {
  for (const name of uploaded) {
    try {
      await client.deleteDataset(name);
    } catch (error) {
      if (error instanceof LuthierError && error.reason === 'DATASET_IN_USE') continue;
      await printLine(io.stderr, `${name} stays stored, since it could not be deleted: ${(error as Error).message}`);
    }
  }
}
