/** Runs plans, some at once, and sums up by kind. */
import type { Reference } from './check.ts';
import { readCounts, writeControl } from './control.ts';
import type { Ground, Outcome, Plan } from './cuts.ts';
import { makeReference } from './recover.ts';
import { World } from './world.ts';

/** What all cuts of a kind came to. */
export interface Summary {
  readonly kind: string;
  cuts: number;
  /** Cuts after which something acknowledged was lost, or the server did not go on. */
  losses: number;
  duplicates: number;
  /** Disks after which every number equals the undisturbed run's. */
  identical: number;
  disks: number;
  /** Of all disks together. */
  seconds: number;
}

/** The undisturbed run, and with it what is needed to disturb others. */
export async function prepare(options: Pick<Ground, 'seed' | 'wants' | 'keep'>): Promise<Ground> {
  using world = new World();
  const control = world.beside('control');
  writeControl(control);
  const began = performance.now();
  const reference: Reference = await makeReference(world, { control });
  const { allocations } = readCounts(control);
  return { ...options, reference, allocations, duration: performance.now() - began };
}

/** Runs every plan. @param told Is told of every outcome. @param parallel Plans at once. */
export async function runPlans(
  plans: readonly Plan[],
  ground: Ground,
  parallel: number,
  told: (outcome: Outcome) => void,
): Promise<Summary[]> {
  const summaries = new Map<string, Summary>();
  const left = [...plans];
  const work = async (): Promise<void> => {
    for (let plan = left.shift(); plan !== undefined; plan = left.shift()) {
      let began = performance.now();
      for await (const outcome of plan(ground)) {
        told(outcome);
        const { id, cuts, findings } = outcome;
        const kind = id.slice(0, id.indexOf('/'));
        const none = { kind, cuts: 0, losses: 0, duplicates: 0, identical: 0, disks: 0, seconds: 0 };
        const sum = summaries.get(kind) ?? none;
        summaries.set(kind, sum);
        sum.cuts += cuts;
        sum.disks += 1;
        sum.losses += Math.sign(findings.losses.length);
        sum.duplicates += Math.sign(findings.duplicates.length);
        sum.identical += findings.losses.length + findings.differences.length === 0 ? 1 : 0;
        sum.seconds += (performance.now() - began) / 1000;
        began = performance.now();
      }
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return [...summaries.values()];
}

/** What is wrong after a cut, for people; empty where nothing is. */
export function describe({ id, findings }: Outcome): string {
  const { losses, duplicates, differences } = findings;
  const lines = [
    ...losses.map((text) => `lost: ${text}`),
    ...duplicates.map((text) => `doubled: ${text}`),
    ...differences.map((text) => `different: ${text}`),
  ];
  return lines.length === 0 ? '' : [id, ...lines].join('\n  ');
}
