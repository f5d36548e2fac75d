/**
 * What the service costs around the engine, measured on real processes (Linux):
 *
 * - `train`: processor time of a step over gRPC beside the engine alone;
 * - `watchers`: many processes watch one running job, half of them break off and come back, all must see the same events;
 * - `start`: time until a server answers, its memory at rest, and the time to load a model.
 *
 *     node test/bench/service.ts [--only train|watchers|start] [--model FILE.gguf] [--threads N] [--repetitions 5]
 *         [--steps 12] [--batch 4] [--length 64]      (train)
 *         [--watchers 200] [--processes 200]          (watchers)
 *         [--idle-seconds 5]                          (start)
 *
 * Needs a built engine (`npm run build`). Without `--model` SmolLM2-135M-Instruct is taken from the cache, or fetched. Prints one JSON
 * line per run and one per comparison.
 */
import { existsSync, realpathSync } from 'node:fs';
import { availableParallelism, constants } from 'node:os';
import { parseArgs } from 'node:util';
import { findNode } from '../../scripts/node24.mjs';
import { fetchSmolLm2 } from '../../scripts/smollm2.mjs';
import { removeTemporaryFolders } from '../e2e/support/server-process.ts';
import { killChildren } from './service/children.ts';
import { measureStart } from './service/start.ts';
import { compareTraining } from './service/train.ts';
import { compareWatchers } from './service/watchers.ts';

const { values } = parseArgs({
  options: {
    only: { type: 'string' },
    model: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) },
    repetitions: { type: 'string', default: '5' },
    steps: { type: 'string', default: '12' },
    batch: { type: 'string', default: '4' },
    length: { type: 'string', default: '64' },
    watchers: { type: 'string', default: '200' },
    processes: { type: 'string', default: '200' },
    'idle-seconds': { type: 'string', default: '5' },
  },
});

function wholeNumber(name: Exclude<keyof typeof values, 'only' | 'model'>): number {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`--${name}: expected a whole number above 0, found ${values[name]}`);
}

const print = (line: object): void => void process.stdout.write(`${JSON.stringify(line)}\n`);

process.once('exit', () => {
  killChildren();
  removeTemporaryFolders();
});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => process.exit(128 + constants.signals[signal]));
}

// On another Node the command starts the server in a second process, and the first one's figures would be measured.
const node = findNode();
if (realpathSync(node) !== realpathSync(process.execPath)) throw new Error(`run it with ${node}`);

const model = values.model ?? (await fetchSmolLm2());
if (!existsSync(model)) throw new Error(`--model: expected a file, found none at ${model}`);
const [threads, repetitions] = [wholeNumber('threads'), wholeNumber('repetitions')];
const parts: Readonly<Record<string, () => Promise<void>>> = {
  train: () => {
    const shape = { steps: wholeNumber('steps'), batch: wholeNumber('batch'), length: wholeNumber('length') };
    return compareTraining({ model, threads, repetitions, ...shape }, print);
  },
  watchers: async () => {
    const counts = { watchers: wholeNumber('watchers'), processes: wholeNumber('processes') };
    if (!(await compareWatchers({ model, threads, ...counts }, print))) process.exitCode = 1;
  },
  start: () => {
    const idleSeconds = wholeNumber('idle-seconds');
    return measureStart({ model, threads, repetitions, idleSeconds }, print);
  },
};
const chosen = values.only === undefined ? Object.keys(parts) : [values.only];
for (const name of chosen) {
  const part = parts[name];
  if (part === undefined) throw new Error(`--only: expected one of ${Object.keys(parts).join(', ')}, found ${name}`);
  await part();
}
