/**
 * Watchers of one job in a process of its own, each with a connection of its own. Slow ones wait between two events. Once the parent gives its word
 * all leave and report what they saw. Started by `watchers.ts`:
 *
 *     node test/bench/watchers/reader.ts ADDRESS JOB FAST SLOW PAUSE_MILLISECONDS
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { LuthierClient } from '../../../clients/typescript/src/index.ts';
import { followParent, report } from '../service/children.ts';

/** `caughtUp`: a fast watcher saw the event that was the last one when it began, a slow one its first. `left`: after the parent's word. */
export type ReaderReport =
  | { readonly kind: 'caughtUp' }
  | { readonly kind: 'left'; readonly slow: boolean; readonly events: number; readonly last: number };

const { parentsWord, leave } = followParent();
const [address = '', job = '', fast = '', slow = '', pause = ''] = process.argv.slice(2);

async function watch(isSlow: boolean): Promise<void> {
  await using client = new LuthierClient({ address });
  const until = isSlow ? 1 : (await client.getTrainingJob(job)).lastSequence;
  const leaving = new AbortController();
  void parentsWord.then(() => leaving.abort());
  let [events, last] = [0, 0];
  try {
    for await (const { sequence } of client.watchTrainingJob(job, { signal: leaving.signal })) {
      events += 1;
      last = sequence;
      if (sequence === until) report({ kind: 'caughtUp' } satisfies ReaderReport);
      if (isSlow) await sleep(Number(pause), undefined, { signal: leaving.signal });
    }
  } catch (error) {
    if (!leaving.signal.aborted) throw error;
  }
  report({ kind: 'left', slow: isSlow, events, last } satisfies ReaderReport);
}

const kinds = [...Array<boolean>(Number(fast)).fill(false), ...Array<boolean>(Number(slow)).fill(true)];
await Promise.all(kinds.map(watch));
leave();
