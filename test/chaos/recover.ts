/** After the cuts: one server that nothing disturbs, the story to its end, and what is found then. */
import { check, type Findings, type Reference, readStored, referenceOf, type Stored } from './check.ts';
import { type LifeOptions, live } from './live.ts';
import { play } from './scenario.ts';
import type { World } from './world.ts';

/** Why a job may end FAILED where its server was killed: for no reason. */
export const AFTER_A_KILL: readonly string[] = [];

/** Plays on, reads everything, stops. @throws Error where the server does not start, or the story cannot be played */
async function finish(world: World, mayFail: readonly string[], options: LifeOptions = {}): Promise<Stored> {
  let stored: Stored | null = null;
  const { end, output } = await live(
    world,
    async (connection) => {
      await play(connection, world, { mayFail });
      stored = await readStored(connection.client);
    },
    options,
  );
  if (end !== 'stopped' || stored === null) throw new Error(`the server ${end}:\n${output}`);
  return stored;
}

/** @param mayFail As `Play.mayFail`. */
export async function recover(world: World, reference: Reference, mayFail = AFTER_A_KILL): Promise<Findings> {
  return check(world, await finish(world, mayFail), reference);
}

/** What an undisturbed story makes. @param world A new one. @param disturbance Such as to count, not to disturb. */
export async function makeReference(world: World, disturbance?: LifeOptions['disturbance']): Promise<Reference> {
  const stored = await finish(world, [], { disturbance });
  const reference = referenceOf(world, stored);
  const { losses, duplicates, differences } = check(world, stored, reference);
  const wrong = [...losses, ...duplicates, ...differences];
  if (wrong.length > 0) throw new Error(`the undisturbed run is not what is expected:\n${wrong.join('\n')}`);
  return reference;
}
