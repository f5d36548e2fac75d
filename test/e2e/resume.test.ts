/** Jobs of real server processes that are killed, stopped, paused and resumed: what comes out is what an uninterrupted run gives. */
import { afterAll, describe, expect, it } from 'vitest';
import { JobState, type TrainingEvent } from '../../clients/typescript/src/index.ts';
import { collect, kind, spec, uploadConversations } from './support/examples.ts';
import { removeTemporaryFolders, ServerProcess } from './support/server-process.ts';

afterAll(removeTemporaryFolders);

const STEPS = 400;

/** Everything that draws numbers or carries state from step to step, and checkpoints at odd places. */
const SETTINGS = {
  perDeviceTrainBatchSize: 1,
  gradientAccumulationSteps: 2,
  maxSteps: STEPS,
  saveSteps: 23,
  validationSplit: 0.3,
  evalSteps: 50,
  loadBestModelAtEnd: true,
  neftuneNoiseAlpha: 5,
  lora: { r: 4, loraAlpha: 8, loraDropout: 0.1 },
};

const EXAMPLES = 9;

const create = async ({ client }: ServerProcess, dataset: string): Promise<string> =>
  (await client.createTrainingJob({ spec: spec(dataset, SETTINGS) })).name;

/** Watches until a step after the first checkpoint that is written from now on. */
async function untilBehindCheckpoint({ client }: ServerProcess, job: string, afterSequence: number) {
  let isWritten = false;
  await collect(client.watchTrainingJob(job, { afterSequence }), (event) => {
    isWritten ||= kind(event) === 'checkpointSaved';
    return isWritten && kind(event) === 'step';
  });
  return (await client.getTrainingJob(job)).lastSequence;
}

/** What a run computed: steps and evaluations without times and rates, and the adapter. */
async function outcome({ client }: ServerProcess, job: string) {
  const events = await collect(client.watchTrainingJob(job));
  expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
  const numbers = events.flatMap(({ event }): object[] => {
    if (event?.$case === 'evaluation') return [event.value];
    if (event?.$case !== 'step') return [];
    const { globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens, skippedSteps } = event.value;
    return [{ globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens, skippedSteps }];
  });
  const { sha256 } = await client.getAdapter(job);
  const saved = events.find((event) => kind(event) === 'adapterSaved')?.event;
  const kept = saved?.$case === 'adapterSaved' ? saved.value.globalStep : null;
  return { events, numbers, sha256, kept };
}

const resumedFrom = (events: readonly TrainingEvent[]): (number | undefined)[] =>
  events.flatMap(({ event }) => (event?.$case === 'jobResumed' ? [event.value.checkpoint?.globalStep] : []));
const warnings = (events: readonly TrainingEvent[]): string[] =>
  events.flatMap(({ event }) => (event?.$case === 'warning' ? [`${event.value.reason}: ${event.value.message}`] : []));

describe('a run that is interrupted', () => {
  it('by SIGKILL, twice, and by SIGTERM ends as one that is not', { timeout: 240_000 }, async () => {
    let server = await ServerProcess.start();
    const { dataFolder } = server;
    const dataset = await uploadConversations(server.client, EXAMPLES);
    const job = await create(server, dataset);
    let seen = 0;
    for (const signal of ['SIGKILL', 'SIGKILL', 'SIGTERM'] as const) {
      seen = await untilBehindCheckpoint(server, job, seen);
      if (signal === 'SIGKILL') await server.kill();
      else expect(await server.stop()).toMatchObject({ code: 0 });
      server = await ServerProcess.start({ dataFolder });
    }
    const interrupted = await outcome(server, job);
    expect(warnings(interrupted.events)).toEqual([]);
    const from = resumedFrom(interrupted.events);
    expect(from).toHaveLength(3);
    for (const step of from) expect(step).toBeGreaterThan(0);

    const direct = await outcome(server, await create(server, dataset));
    expect(interrupted.numbers).toEqual(direct.numbers);
    expect(interrupted.sha256).toBe(direct.sha256);
    expect(interrupted.kept).toBe(direct.kept);
    await server.stop();
  });

  it('by pauses ends as one that is not, and another job has the device meanwhile', { timeout: 240_000 }, async () => {
    const server = await ServerProcess.start();
    const { client } = server;
    const dataset = await uploadConversations(client, EXAMPLES);
    const job = await create(server, dataset);
    for (const step of [3, 50, 177]) {
      await collect(
        client.watchTrainingJob(job),
        ({ event }) => event?.$case === 'step' && event.value.globalStep === step,
      );
      expect((await client.pauseTrainingJob(job)).state).toBe(JobState.JOB_STATE_PAUSED);
      const other = await client.createTrainingJob({ spec: spec(dataset, { maxSteps: 2 }) });
      const events = await collect(client.watchTrainingJob(other.name));
      expect(events.at(-1)?.event).toMatchObject({ value: { to: JobState.JOB_STATE_SUCCEEDED } });
      await client.resumeTrainingJob(job);
    }
    const paused = await outcome(server, job);
    expect(warnings(paused.events)).toEqual([]);
    expect(resumedFrom(paused.events)).toHaveLength(3);
    const direct = await outcome(server, await create(server, dataset));
    expect(paused.numbers).toEqual(direct.numbers);
    expect(paused.sha256).toBe(direct.sha256);
    await server.stop();
  });
});
