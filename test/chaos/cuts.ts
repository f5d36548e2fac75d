/** The kinds of cuts: each one ends a server in its way, lets another one recover, and tells what was found. */
import type { Findings, Reference } from './check.ts';
import { type FullDisk, makeRoom, readCounts, writeControl } from './control.ts';
import { CUTS, Disk } from './disk.ts';
import { readJournal } from './journal.ts';
import { type Connection, live } from './live.ts';
import { POINTS } from './points.ts';
import { Random } from './random.ts';
import { AFTER_A_KILL, recover } from './recover.ts';
import { play } from './scenario.ts';
import { World } from './world.ts';

/** What a plan is made of. */
export interface Ground {
  readonly seed: string;
  readonly reference: Reference;
  /** Milliseconds of the undisturbed run. */
  readonly duration: number;
  /** Creates and writes of the undisturbed run. */
  readonly allocations: number;
  /** Whether a cut is asked for. */
  readonly wants: (id: string) => boolean;
  /** Keeps the disk of a cut that something is wrong with. */
  readonly keep: (id: string, world: World) => void;
}

/** What a disk went through. */
export interface Outcome {
  readonly id: string;
  /** Servers that were cut, or met a full disk. */
  readonly cuts: number;
  readonly findings: Findings;
}

/** Cuts that share what is made before them. */
export type Plan = (ground: Ground) => AsyncGenerator<Outcome, void, undefined>;

const failed = (error: unknown): Findings => ({
  losses: [(error as Error).stack ?? String(error)],
  duplicates: [],
  differences: [],
});

const isSound = ({ losses, duplicates, differences }: Findings): boolean =>
  losses.length + duplicates.length + differences.length === 0;

/** Cuts one disk and recovers. @param disturb Returns the number of cuts. */
async function outcome(
  { keep, reference }: Ground,
  id: string,
  world: World,
  disturb: () => Promise<number>,
  mayFail = AFTER_A_KILL,
): Promise<Outcome> {
  let cuts = 0;
  let findings: Findings;
  try {
    cuts = await disturb();
    findings = await recover(world, reference, mayFail);
  } catch (error) {
    findings = failed(error);
  }
  if (!isSound(findings)) keep(id, world);
  return { id, cuts, findings };
}

/** Kills at a named moment. */
export function named(name: string): Plan {
  return async function* (ground) {
    using world = new World();
    yield await outcome(ground, `named/${name}`, world, async () => {
      const { end } = await live(world, (connection) => play(connection, world), {
        disturbance: { kill: POINTS[name] },
      });
      if (end !== 'killed') throw new Error(`the moment \`${name}\` never came`);
      return 1;
    });
  };
}

/** Servers on one disk that are killed one after another. */
const KILLS_ON_A_DISK = 2;

/** Kills at random instants. */
export function killed(index: number): Plan {
  return async function* (ground) {
    using world = new World();
    const random = new Random(ground.seed, 'kill', index);
    yield await outcome(ground, `kill/${index}`, world, async () => {
      let cuts = 0;
      for (let server = 0; server < KILLS_ON_A_DISK; server++) {
        const killAfter = random.next() * ground.duration;
        const { end } = await live(world, (connection) => play(connection, world, { mayFail: AFTER_A_KILL }), {
          killAfter,
        });
        if (end === 'refused') throw new Error('a server that was killed cannot be followed by another one');
        if (end === 'killed') cuts++;
      }
      return cuts;
    });
  };
}

/** Power cuts of one recording: at random operations, with a random part of what was not synced. */
export function powerCuts(index: number, count: number): Plan {
  return async function* (ground) {
    using world = new World();
    const random = new Random(ground.seed, 'power', index);
    const journal = world.beside('journal');
    let disk: Disk;
    try {
      // Every second one records how a server recovers.
      if (index % 2 === 1) {
        const killAfter = random.next() * ground.duration;
        await live(world, (connection) => play(connection, world), { killAfter });
      }
      disk = Disk.of(world.disk);
      const again = { disturbance: { journal } };
      await live(world, (connection) => play(connection, world, { mayFail: AFTER_A_KILL }), again);
    } catch (error) {
      yield { id: `power/${index}`, cuts: 0, findings: failed(error) };
      return;
    }
    const operations = readJournal(journal);
    const { ledger } = world;
    const moments = Array.from({ length: count }, () => random.below(operations.length)).sort((a, b) => a - b);
    let done = 0;
    for (const [cut, moment] of moments.entries()) {
      for (const operation of operations.slice(done, moment)) disk.apply(operation);
      done = moment;
      const id = `power/${index}/${cut}`;
      if (!ground.wants(id)) continue;
      world.renew(ledger.before(operations[moment]?.begin ?? 0n));
      yield await outcome(ground, id, world, async () => {
        disk.cut(world.disk, random.pick(CUTS), new Random(ground.seed, id));
        return 1;
      });
    }
  };
}

/** When a disk is full: for one write, for some, until its user makes room, or from a number of bytes on. */
function fullDisk(random: Random, { allocations }: Ground): FullDisk {
  const from = 1 + random.below(allocations);
  const kinds: readonly FullDisk[] = [
    { from, until: from + 1 },
    { from, until: from + 2 + random.below(30) },
    { from },
    { bytes: random.below(BYTES) },
  ];
  return random.pick(kinds);
}

/** About what the story writes. */
const BYTES = 1_000_000;
/** After which somebody has seen that a disk is full and made room. */
const NOTICED_MILLISECONDS = 1000;
/** How often a user tries again on a server whose disk was full. */
const TRIES = 4;
/** What a full disk may end a job with. */
const AFTER_A_FULL_DISK: readonly string[] = [...AFTER_A_KILL, 'STORAGE_FULL'];

/** A disk that is full at a random moment; the server stays, and its user makes room and goes on. */
export function full(index: number): Plan {
  return async function* (ground) {
    using world = new World();
    const control = world.beside('control');
    const disk = fullDisk(new Random(ground.seed, 'full', index), ground);
    writeControl(control, disk);
    const id = `full/${index}`;
    const disturb = async (): Promise<number> => {
      const use = async (connection: Connection): Promise<void> => {
        for (let left = TRIES; ; left--) {
          try {
            return await play(connection, world, { mayFail: AFTER_A_FULL_DISK });
          } catch (error) {
            if (left === 0 || readCounts(control).refused === 0) throw error;
          }
          makeRoom(control);
        }
      };
      // A server whose disk is full may wait for room without a word to its clients.
      let full: number | null = null;
      const noticed = setInterval(() => {
        if (readCounts(control).refused > 0) full ??= performance.now();
        if (full !== null && performance.now() - full > NOTICED_MILLISECONDS) makeRoom(control);
      }, 100);
      try {
        await live(world, use, { disturbance: { control } });
      } finally {
        clearInterval(noticed);
      }
      return readCounts(control).refused > 0 ? 1 : 0;
    };
    yield await outcome(ground, id, world, disturb, AFTER_A_FULL_DISK);
  };
}
