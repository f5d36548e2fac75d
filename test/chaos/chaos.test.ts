/** The short form of `npm run chaos`: some cuts of every kind. */
import { beforeAll, expect, test } from 'vitest';
import { full, type Ground, killed, named, type Plan, powerCuts } from './cuts.ts';
import { POINTS, SHORT } from './points.ts';
import { describe, prepare, runPlans } from './run.ts';

/** Servers at once: one waits for its disk or its start while another one computes. */
const PARALLEL = 3;

const SEED = 'test';
let ground: Ground;

beforeAll(async () => {
  ground = await prepare({ seed: SEED, wants: () => true, keep: () => {} });
}, 120_000);

/** What is wrong after some plans, with how it is repeated; and the number of cuts. */
async function cut(plans: readonly Plan[], count: number): Promise<{ wrong: readonly string[]; cuts: number }> {
  const wrong: string[] = [];
  const summaries = await runPlans(plans, ground, PARALLEL, (outcome) => {
    const text = describe(outcome);
    const again = `again: npm run chaos -- --seed ${SEED} --count ${count} --only '${outcome.id}'`;
    if (text !== '') wrong.push(`${text}\n${again}`);
  });
  return { wrong, cuts: summaries.reduce((sum, { cuts }) => sum + cuts, 0) };
}

const LIMIT = { timeout: 600_000 };

test('nothing is lost or doubled where a server is killed at named moments', LIMIT, async () => {
  expect(SHORT.filter((name) => !(name in POINTS))).toEqual([]);
  expect(await cut(SHORT.map(named), SHORT.length)).toEqual({ wrong: [], cuts: SHORT.length });
});

test('nothing is lost or doubled where servers are killed at random instants', LIMIT, async () => {
  const { wrong, cuts } = await cut([0, 1].map(killed), 2);
  expect(wrong).toEqual([]);
  expect(cuts).toBeGreaterThan(0);
});

test('nothing is lost or doubled where the power fails', LIMIT, async () => {
  expect(await cut([powerCuts(0, 5)], 5)).toEqual({ wrong: [], cuts: 5 });
});

test('nothing is lost or doubled where the disk is full', LIMIT, async () => {
  const { wrong, cuts } = await cut([0, 1, 2, 3].map(full), 4);
  expect(wrong).toEqual([]);
  expect(cuts).toBeGreaterThan(0);
});
