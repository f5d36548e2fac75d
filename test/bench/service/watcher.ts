/**
 * A process that watches a job, once or several times at the same time, and reports what each watcher saw. Watchers with an odd number
 * break off twice and come back with a new connection: first after some events of their own, then, once the parent gave
 * its word, after some more. Started by `watchers.ts`; by hand, where Enter gives the word:
 *
 *     node test/bench/service/watcher.ts ADDRESS JOB NUMBER... < /dev/tty
 */
import { LuthierClient } from '../../../clients/typescript/src/index.ts';
import { followParent, report } from './children.ts';
import { Digest, type Seen } from './digest.ts';

/** `attached`: the first event came. `returned`: the first event after the last return came. `ended`: the job ended. */
export type WatcherReport =
  | { readonly kind: 'attached' | 'returned'; readonly watcher: number }
  | { readonly kind: 'ended'; readonly watcher: number; readonly attachments: number; readonly seen: Seen };

const { parentsWord, leave } = followParent();
const [address = '', job = '', ...numbers] = process.argv.slice(2);
let told = false;
parentsWord.then(() => {
  told = true;
});

/** When the watcher leaves its attachments but the last, each given the number of events of that attachment. */
function reasonsToLeave(watcher: number): ((events: number) => boolean)[] {
  if (watcher % 2 === 0) return [];
  // Different numbers, so that the watchers do not all come back at once.
  const [first, second] = [1 + (watcher % 40), 1 + (watcher % 7)];
  let sinceWord = 0;
  const afterWord = () => {
    if (told) sinceWord += 1;
    return sinceWord === second;
  };
  return [(events) => events === first, afterWord];
}

async function watch(watcher: number): Promise<void> {
  const send = (message: WatcherReport) => report(message);
  const digest = new Digest();
  const reasons = reasonsToLeave(watcher);
  let attachments = 0;
  for (const leaves of [...reasons, null]) {
    await using client = new LuthierClient({ address });
    attachments += 1;
    let events = 0;
    for await (const event of client.watchTrainingJob(job, { afterSequence: digest.last })) {
      digest.add(event);
      events += 1;
      if (events === 1 && attachments === 1) send({ kind: 'attached', watcher });
      if (events === 1 && attachments === reasons.length + 1 && attachments > 1) send({ kind: 'returned', watcher });
      if (leaves?.(events)) break;
    }
  }
  send({ kind: 'ended', watcher, attachments, seen: digest.seen() });
}

await Promise.all(numbers.map((number) => watch(Number(number))));
leave();
