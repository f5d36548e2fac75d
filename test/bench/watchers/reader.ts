/**
 * Watchers of one job in a process of its own, each with a connection of its own. Fast ones begin at the job's last event; slow ones begin at its first
 * and wait between two events, so that the server has more for them than it can send. Once the parent gives its word
 * all leave and report what they saw. Started by `watchers.ts`:
 *
 *     node test/bench/watchers/reader.ts ADDRESS JOB FAST SLOW PAUSE_MILLISECONDS
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierClient } from '../../../clients/typescript/src/index.ts';
import { followParent, report } from '../service/children.ts';

/** `attached`: the first event came. `left`: after the parent's word. */
export type ReaderReport =
  | { readonly kind: 'attached' }
  | {
      readonly kind: 'left';
      readonly slow: boolean;
      readonly first: number;
      readonly events: number;
      readonly last: number;
    };

const { parentsWord, leave } = followParent();
const [address = '', job = '', fast = '', slow = '', pause = ''] = process.argv.slice(2);

async function watch(isSlow: boolean): Promise<void> {
  await using client = new LuthierClient({ address });
  const afterSequence = isSlow ? 0 : (await client.getTrainingJob(job)).lastSequence;
  const leaving = new AbortController();
  void parentsWord.then(() => leaving.abort());
  let [first, events, last] = [0, 0, 0];
  try {
    for await (const { sequence } of client.watchTrainingJob(job, { afterSequence, signal: leaving.signal })) {
      if (events === 0) {
        first = sequence;
        report({ kind: 'attached' } satisfies ReaderReport);
      }
      events += 1;
      last = sequence;
      if (isSlow) await sleep(Number(pause), undefined, { signal: leaving.signal });
    }
  } catch (error) {
    if (!leaving.signal.aborted) throw error;
  }
  report({ kind: 'left', slow: isSlow, first, events, last } satisfies ReaderReport);
}

const kinds = [...Array<boolean>(Number(fast)).fill(false), ...Array<boolean>(Number(slow)).fill(true)];
await Promise.all(kinds.map(watch));
leave();
