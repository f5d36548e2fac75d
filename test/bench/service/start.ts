/**
 * The time from starting a server process to its first answer in a fresh data folder, with an empty compile cache and with one that
 * an earlier start filled; the memory that it holds at rest without a model; and the time that LoadModel takes right after the start.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { temporaryFolder } from '../../e2e/support/server-process.ts';
import { residentMebibytes, secondsSince } from './measure.ts';
import { MODEL_NAME, startServer } from './server.ts';
import { median, round } from './statistics.ts';

export interface StartOptions {
  readonly model: string;
  readonly threads: number;
  readonly repetitions: number;
  /** Rest before the memory is read. */
  readonly idleSeconds: number;
}

interface Start {
  readonly startSeconds: number;
  readonly idleMebibytes: number;
}

async function startWithoutModel({ threads, idleSeconds }: StartOptions, env: NodeJS.ProcessEnv): Promise<Start> {
  await using server = await startServer({ threads, env });
  await sleep(1000 * idleSeconds);
  return { startSeconds: server.startSeconds, idleMebibytes: residentMebibytes(server.pid) };
}

async function load(
  { model, threads }: StartOptions,
  env: NodeJS.ProcessEnv,
): Promise<{ readonly loadSeconds: number; readonly loadedMebibytes: number }> {
  await using server = await startServer({ threads, model, env });
  const began = performance.now();
  await server.client.loadModel(MODEL_NAME);
  return { loadSeconds: secondsSince(began), loadedMebibytes: residentMebibytes(server.pid) };
}

const medians = (starts: readonly Start[]) => ({
  start_seconds: round(median(starts.map(({ startSeconds }) => startSeconds))),
  idle_mib: round(median(starts.map(({ idleMebibytes }) => idleMebibytes)), 1),
});

export async function measureStart(options: StartOptions, print: (line: object) => void): Promise<void> {
  const [first, later]: [Start[], Start[]] = [[], []];
  const loads: number[] = [];
  for (let repetition = 0; repetition < options.repetitions; repetition++) {
    const env = { NODE_COMPILE_CACHE: temporaryFolder() };
    for (const [what, starts] of [
      ['start, empty compile cache', first],
      ['start, warm compile cache', later],
    ] as const) {
      const start = await startWithoutModel(options, env);
      starts.push(start);
      print({ what, start_seconds: round(start.startSeconds), idle_mib: round(start.idleMebibytes, 1) });
    }
    const { loadSeconds, loadedMebibytes } = await load(options, env);
    loads.push(loadSeconds);
    print({
      what: 'LoadModel after a warm start',
      load_seconds: round(loadSeconds),
      loaded_mib: round(loadedMebibytes, 1),
    });
  }
  print({
    comparison: 'start: medians, empty against warm compile cache',
    repetitions: options.repetitions,
    idle_after_seconds: options.idleSeconds,
    empty_cache: medians(first),
    warm_cache: medians(later),
    load_model_seconds: round(median(loads)),
  });
}
