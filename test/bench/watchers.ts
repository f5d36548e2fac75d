/**
 * What a thousand watchers of one job cost its server, half of them reading slowly (Linux). The engine has no device, so that what is measured is the
 * service; one job runs all the time, first alone and then watched.
 *
 *     node test/bench/watchers.ts [--watchers 1000] [--processes 8] [--steps 40] [--step-milliseconds 500] [--backlog 600] [--pause 2000]
 *
 * Prints a line of JSON for each phase, and one for what the watchers saw. Fast watchers must have seen every event without a gap.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { LuthierClient } from '../../clients/typescript/src/index.ts';
import { removeTemporaryFolders } from '../e2e/support/server-process.ts';
import { killChildren, type Program, startProgram } from './service/children.ts';
import { loadAverage, peakResidentMebibytes, processorSeconds, residentMebibytes } from './service/measure.ts';
import { round } from './service/statistics.ts';
import type { ReaderReport } from './watchers/reader.ts';
import type { ServerReport } from './watchers/server.ts';

const { values } = parseArgs({
  options: {
    watchers: { type: 'string', default: '1000' },
    processes: { type: 'string', default: '8' },
    steps: { type: 'string', default: '40' },
    'step-milliseconds': { type: 'string', default: '500' },
    backlog: { type: 'string', default: '600' },
    pause: { type: 'string', default: '2000' },
  },
});
const [watchers, processes, steps] = [Number(values.watchers), Number(values.processes), Number(values.steps)];

process.once('exit', () => {
  killChildren();
  removeTemporaryFolders();
});

const print = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);
const program = <Report>(name: string, ...args: string[]): Program<Report> =>
  startProgram<Report>(new URL(`./watchers/${name}.ts`, import.meta.url), args);

const server = program<ServerReport>('server', values.backlog, values['step-milliseconds']);
let started: ServerReport | null = null;
for await (const report of server.reports) {
  started = report;
  break;
}
if (started === null) throw new Error('the server did not start');
const { address, job } = started;
await using client = new LuthierClient({ address });
const stepsDone = async (): Promise<number> => (await client.getTrainingJob(job)).lastStep?.globalStep ?? 0;

async function untilStep(step: number): Promise<number> {
  for (;;) {
    const done = await stepsDone();
    if (done >= step) return done;
    await sleep(50);
  }
}

/** Lets the job take steps, and says what its server needed for each. */
async function measure(phase: string): Promise<number> {
  const from = await untilStep((await stepsDone()) + 1);
  const [seconds, began] = [processorSeconds(server.pid), performance.now()];
  const to = await untilStep(from + steps);
  const perStep = (processorSeconds(server.pid) - seconds) / (to - from);
  print({
    phase,
    steps: to - from,
    processor_ms_per_step: round(1000 * perStep, 2),
    seconds_per_step: round((performance.now() - began) / 1000 / (to - from), 3),
    server_mib: round(residentMebibytes(server.pid), 1),
    load_average: loadAverage(),
  });
  return perStep;
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, value) => total + value, 0);

await untilStep(Number(values.backlog));
const alone = await measure('alone');
const readers = Array.from({ length: processes }, (_, index) => {
  const count = (of: number): string => String(Math.floor((of + index) / processes));
  const slow = Math.floor(watchers / 2);
  return program<ReaderReport>('reader', address, job, count(watchers - slow), count(slow), values.pause);
});
const left: Extract<ReaderReport, { kind: 'left' }>[] = [];
const attached = Promise.withResolvers<void>();
let count = 0;
const reading = readers.map(async ({ reports }) => {
  for await (const report of reports) {
    if (report.kind === 'left') left.push(report);
    else count += 1;
    if (count === watchers) attached.resolve();
  }
});
await Promise.race([attached.promise, Promise.all(reading)]);
// Slow watchers are sent what their windows hold.
await measure('filling windows');
const watched = await measure('watched');
const last = (await client.getTrainingJob(job)).lastSequence;
await sleep(1000);
for (const { tell } of readers) tell();
await Promise.all(reading);
const fast = left.filter(({ slow }) => !slow);
const whole = fast.filter((one) => one.last - one.first + 1 === one.events && one.last >= last);
print({
  watchers,
  processes,
  fast_that_saw_everything: whole.length,
  of: fast.length,
  mean_events_of_slow: round(
    sum(left.filter(({ slow }) => slow).map(({ events }) => events)) / (left.length - fast.length),
    1,
  ),
  events: last,
  processor_us_per_step_and_watcher: round((1e6 * (watched - alone)) / watchers, 1),
  server_peak_mib: round(peakResidentMebibytes(server.pid), 1),
});
process.exit(whole.length === fast.length ? 0 : 1);
