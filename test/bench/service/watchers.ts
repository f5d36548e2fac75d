/**
 * Many processes watch one job of a real model while it runs. Every second watcher breaks off twice and comes back. The job is
 * cancelled once all were attached at the same time and all came back; then everybody must have seen what a reading afterwards shows.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DatasetFormat, JobState, LuthierClient } from '../../../clients/typescript/src/index.ts';
import { temporaryFolder } from '../../e2e/support/server-process.ts';
import { Digest, type Seen } from './digest.ts';
import { peakResidentMebibytes, residentMebibytes, secondsAroundEngine, secondsSince } from './measure.ts';
import { MODEL_NAME, type Server, startServer } from './server.ts';
import { round } from './statistics.ts';
import { WatcherProcess } from './watcher-process.ts';
import { jsonLines, trainingSpec } from './workload.ts';

export interface WatchersOptions {
  readonly model: string;
  readonly threads: number;
  readonly watchers: number;
  readonly processes: number;
}

/** Steps of a fraction of a second, and more of them than the watchers wait for. The examples come again and again. */
const STEP = { batch: 1, length: 16 };
const [DIFFERENT_STEPS, STEPS] = [50, 1_000_000];

/** Processes that are started at the same time; more only wait for each other. */
const STARTING = 4;

/** How long the job goes on before the first watcher starts, once all have caught up, and after the last one came back. */
const QUIET_MILLISECONDS = 5000;

/** Longest wait for all watchers to attach, and for all to come back. */
const PATIENCE_MILLISECONDS = 15 * 60_000;

/** Rejects where it takes too long. */
async function patiently<T>(what: string, promise: Promise<T>): Promise<T> {
  const patience = new AbortController();
  const tooLong = sleep(PATIENCE_MILLISECONDS, undefined, { signal: patience.signal }).then(() => {
    throw new Error(`${what}: not within ${PATIENCE_MILLISECONDS / 1000} seconds`);
  });
  tooLong.catch(() => {});
  try {
    return await Promise.race([promise, tooLong]);
  } finally {
    patience.abort();
  }
}

/** How far a job is, which must still be running, and what its server did for it beside the engine's work. */
interface Mark {
  readonly steps: number;
  readonly aroundEngine: number;
  readonly clock: number;
}

async function mark({ client, pid }: Server, job: string): Promise<Mark> {
  const { state, lastStep } = await client.getTrainingJob(job);
  if (state !== JobState.JOB_STATE_RUNNING) throw new Error(`expected a running job, found state ${state}`);
  return { steps: lastStep?.globalStep ?? 0, aroundEngine: secondsAroundEngine(pid), clock: performance.now() };
}

const secondsBetween = (from: Mark, to: Mark): number => (to.clock - from.clock) / 1000;

const between = (from: Mark, to: Mark) => ({
  seconds: round(secondsBetween(from, to), 1),
  steps_per_second: round((to.steps - from.steps) / secondsBetween(from, to), 2),
  around_engine_percent_of_a_processor: round(
    (100 * (to.aroundEngine - from.aroundEngine)) / secondsBetween(from, to),
    1,
  ),
});

async function startJob(client: LuthierClient): Promise<string> {
  const text = jsonLines({ ...STEP, steps: DIFFERENT_STEPS });
  const { name: dataset } = await client.uploadDataset([text], { format: DatasetFormat.DATASET_FORMAT_TOKENS });
  const spec = { ...trainingSpec({ ...STEP, steps: STEPS }), model: MODEL_NAME, dataset };
  const { name } = await client.createTrainingJob({ spec });
  for await (const { event } of client.watchTrainingJob(name)) if (event?.$case === 'step') break;
  return name;
}

/** Starts the processes, a few at a time, and waits until every watcher is attached. */
async function attachAll(address: string, job: string, options: WatchersOptions): Promise<WatcherProcess[]> {
  const everybody = Array.from({ length: options.watchers }, (_, number) => number);
  const waiting = Array.from({ length: Math.min(options.processes, options.watchers) }, (_, index) =>
    everybody.filter((number) => number % options.processes === index),
  );
  const env = { NODE_COMPILE_CACHE: temporaryFolder() };
  const all: WatcherProcess[] = [];
  const startSome = async () => {
    for (let numbers = waiting.shift(); numbers !== undefined; numbers = waiting.shift()) {
      const process = new WatcherProcess(address, job, numbers, env);
      all.push(process);
      await process.attached.promise;
    }
  };
  await Promise.all(Array.from({ length: STARTING }, startSome));
  return all;
}

/** What there is to see once the job has ended. */
async function readAfterwards(address: string, job: string): Promise<Seen> {
  await using client = new LuthierClient({ address });
  const digest = new Digest();
  for await (const event of client.watchTrainingJob(job)) digest.add(event);
  return digest.seen();
}

/** @returns Whether everybody saw everything. */
export async function compareWatchers(options: WatchersOptions, print: (line: object) => void): Promise<boolean> {
  const { model, threads } = options;
  await using server = await startServer({ threads, model });
  const { client, address, pid } = server;
  const job = await startJob(client);
  const began = await mark(server, job);
  await sleep(QUIET_MILLISECONDS);
  const unwatched = await mark(server, job);
  const memoryBefore = residentMebibytes(pid);
  const processes = await patiently('attaching', attachAll(address, job, options));
  const attached = await mark(server, job);
  await sleep(QUIET_MILLISECONDS);
  for (const process of processes) process.tell();
  await patiently('coming back', Promise.all(processes.map(({ returned }) => returned.promise)));
  await sleep(QUIET_MILLISECONDS);
  const returned = await mark(server, job);
  await client.cancelTrainingJob(job);
  const reports = (await patiently('the end', Promise.all(processes.map(({ ended }) => ended)))).flat();
  const seconds = secondsSince(began.clock);
  print({
    what: 'watched job',
    threads,
    unwatched: between(began, unwatched),
    while_watchers_start: between(unwatched, attached),
    all_attached: between(attached, returned),
    server_mib_unwatched: round(memoryBefore, 1),
  });
  const expected = await readAfterwards(address, job);
  const same = reports.filter(({ seen }) => seen.sha256 === expected.sha256 && seen.events === expected.events);
  print({
    comparison: 'what watchers saw of a running job against a reading after its end',
    watchers: options.watchers,
    processes: processes.length,
    saw_everything: same.length,
    sequences_without_gap: expected.gapless && same.every(({ seen }) => seen.gapless),
    events: expected.events,
    reconnected: reports.filter(({ attachments }) => attachments > 1).length,
    reconnections: reports.reduce((sum, { attachments }) => sum + attachments - 1, 0),
    seconds: round(seconds, 1),
    server_peak_mib: round(peakResidentMebibytes(pid), 1),
    steps_per_second: between(attached, returned).steps_per_second,
  });
  return same.length === options.watchers && expected.gapless;
}
