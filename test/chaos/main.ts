/**
 * `npm run chaos`: cuts servers off in every way and checks that nothing was lost or doubled. Options: `--seed TEXT`, `--only ID` (a kind such as
 * `kill`, or one cut such as `power/3/7`), `--count N` (cuts of each random kind), `--parallel N`.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { full, killed, named, type Plan, powerCuts } from './cuts.ts';
import { POINTS } from './points.ts';
import { describe, prepare, runPlans, type Summary } from './run.ts';

const KEPT = fileURLToPath(new URL('../../target/chaos/failed/', import.meta.url));

/** Power cuts of one recording. */
const CUTS_OF_A_RECORDING = 20;

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    count: { type: 'string' },
    parallel: { type: 'string', default: '1' },
  },
});

function whole(name: string, text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  process.stderr.write(`--${name}: expected a whole number above 0, found ${text}\n`);
  process.exit(2);
}

const { seed, only } = values;
const counts = { kill: 100, power: 200, full: 100 };
if (values.count !== undefined) counts.kill = counts.power = counts.full = whole('count', values.count);

/** Whether a cut, or a plan that holds cuts, is asked for. */
const wants = (id: string): boolean => only === '' || id === only || id.startsWith(`${only}/`);
const mayHold = (id: string): boolean => wants(id) || only.startsWith(`${id}/`);

const plans: readonly (readonly [id: string, plan: Plan])[] = [
  ...Object.keys(POINTS).map((name) => [`named/${name}`, named(name)] as const),
  ...Array.from({ length: counts.kill }, (_, index) => [`kill/${index}`, killed(index)] as const),
  ...Array.from({ length: Math.ceil(counts.power / CUTS_OF_A_RECORDING) }, (_, index) => {
    const count = Math.min(CUTS_OF_A_RECORDING, counts.power - index * CUTS_OF_A_RECORDING);
    return [`power/${index}`, powerCuts(index, count)] as const;
  }),
  ...Array.from({ length: counts.full }, (_, index) => [`full/${index}`, full(index)] as const),
];
const chosen = plans.filter(([id]) => mayHold(id)).map(([, plan]) => plan);
if (chosen.length === 0) {
  process.stderr.write(`--only: expected named, kill, power or full, or one cut of these, found ${only}\n`);
  process.exit(2);
}

const LABELS: Readonly<Record<string, string>> = {
  named: 'SIGKILL, named moments',
  kill: 'SIGKILL, random instants',
  power: 'power cuts',
  full: 'full disk',
};

function table(summaries: readonly Summary[]): string {
  const head = ['kind', 'cuts', 'disks', 'losses', 'duplicates', 'bit-identical', 'seconds'];
  const rows = summaries.map(({ kind, cuts, disks, losses, duplicates, identical, seconds }) =>
    [LABELS[kind] ?? kind, cuts, disks, losses, duplicates, identical, Math.round(seconds)].map(String),
  );
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

const ground = await prepare({
  seed,
  wants,
  keep: (id, world) => {
    const target = join(KEPT, id.replaceAll(/[^\w]+/g, '-'));
    mkdirSync(KEPT, { recursive: true });
    world.save(target);
    console.log(`what is left of the disk: ${target}`);
  },
});
let wrong = 0;
const summaries = await runPlans(chosen, ground, whole('parallel', values.parallel), (outcome) => {
  const text = describe(outcome);
  if (text === '') return console.log(`${outcome.id}: sound`);
  wrong++;
  const count = values.count === undefined ? '' : ` --count ${values.count}`;
  console.log(`${text}\n  again: npm run chaos -- --seed ${seed}${count} --only '${outcome.id}'`);
});
console.log(`\n${table(summaries)}`);
process.exitCode = wrong === 0 ? 0 : 1;
