/** Jobs of a real server process: killed, drained, cancelled, watched, and generating meanwhile. */
import { afterAll, describe, expect, it } from 'vitest';
import { JobState, LuthierClient } from '../../clients/typescript/src/index.ts';
import { collect, everything, kind, spec, uploadConversations } from './support/examples.ts';
import { removeTemporaryFolders, ServerProcess } from './support/server-process.ts';

afterAll(removeTemporaryFolders);

/** Long enough that it is still running whatever the test does. */
const LONG = { numTrainEpochs: 100_000 };

describe('a killed server', () => {
  it('keeps every event that was sent; what ran goes on, and then what waited', { timeout: 120_000 }, async () => {
    const first = await ServerProcess.start();
    const dataset = await uploadConversations(first.client, 6);
    const running = await first.client.createTrainingJob({
      spec: spec(dataset, LONG),
      requestId: 'a3a0c0de-0000-4000-8000-000000000001',
    });
    const queued = await first.client.createTrainingJob({ spec: spec(dataset, { numTrainEpochs: 1 }) });
    expect((await first.client.getTrainingJob(queued.name)).state).toBe(JobState.JOB_STATE_QUEUED);
    let steps = 0;
    const seen = await collect(
      first.client.watchTrainingJob(running.name),
      (event) => kind(event) === 'step' && ++steps === 25,
    );
    await first.kill();

    const second = await ServerProcess.start({ dataFolder: first.dataFolder });
    // No checkpoint was due: it runs from the start, and tells only of steps that are new.
    let resumed = false;
    await collect(second.client.watchTrainingJob(running.name), (event) => {
      resumed ||= kind(event) === 'jobResumed';
      return resumed && kind(event) === 'step';
    });
    expect((await second.client.getTrainingJob(queued.name)).state).toBe(JobState.JOB_STATE_QUEUED);
    await second.client.cancelTrainingJob(running.name);
    const all = await collect(second.client.watchTrainingJob(running.name));
    expect(all.slice(0, seen.length)).toEqual(seen);
    expect(all.map(({ sequence }) => sequence)).toEqual(all.map((_, index) => index + 1));
    const numbers = all.flatMap(({ event }) => (event?.$case === 'step' ? [event.value.globalStep] : []));
    expect(numbers).toEqual(numbers.map((_, index) => index + 1));
    expect(all.filter((event) => kind(event) === 'warning')).toEqual([]);

    const rest = await collect(second.client.watchTrainingJob(queued.name));
    expect(rest.at(-1)?.event).toMatchObject({ $case: 'stateChange', value: { to: JobState.JOB_STATE_SUCCEEDED } });
    const again = await second.client.createTrainingJob({
      spec: spec(dataset, LONG),
      requestId: 'a3a0c0de-0000-4000-8000-000000000001',
    });
    expect(again.name, 'the request id still names the first job').toBe(running.name);
    await second.stop();
  });

  it('is invisible to a client that watches while it comes back', { timeout: 120_000 }, async () => {
    const first = await ServerProcess.start();
    const dataset = await uploadConversations(first.client, 6);
    const job = await first.client.createTrainingJob({ spec: spec(dataset, { numTrainEpochs: 100, saveSteps: 20 }) });
    const port = first.address.split(':').at(-1) ?? '';
    const watcher = new LuthierClient({ address: first.address });
    let restart: Promise<ServerProcess> | null = null;
    const events = await collect(watcher.watchTrainingJob(job.name), (event) => {
      if (kind(event) === 'step' && restart === null) {
        restart = first
          .kill()
          .then(() => ServerProcess.start({ dataFolder: first.dataFolder, flags: ['--port', port] }));
      }
      return false;
    });
    expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
    expect(events.at(-1)?.event).toMatchObject({ $case: 'stateChange', value: { to: JobState.JOB_STATE_SUCCEEDED } });
    watcher.close();
    await (await (restart as Promise<ServerProcess> | null))?.stop();
  });
});

describe('a running job', () => {
  it('lets generation in between its micro-steps and is cancelled at once', { timeout: 120_000 }, async () => {
    const server = await ServerProcess.start();
    const { client } = server;
    const dataset = await uploadConversations(client, 6);
    const job = await client.createTrainingJob({ spec: spec(dataset, LONG) });
    await collect(client.watchTrainingJob(job.name), (event) => kind(event) === 'step');
    const prompt = { input: { $case: 'text' as const, value: 'Hello' } };
    const request = { model: 'models/tiny', prompt, sampling: { maxNewTokens: 10, ignoreEos: true } };
    const answers = await Promise.all([1, 2, 3].map(() => everything(client.generate(request))));
    for (const answer of answers) expect(answer.at(-1)?.event?.$case).toBe('finished');
    expect((await client.getTrainingJob(job.name)).state).toBe(JobState.JOB_STATE_RUNNING);

    await client.cancelTrainingJob(job.name);
    const events = await collect(client.watchTrainingJob(job.name));
    expect(events.at(-1)?.event).toMatchObject({ $case: 'stateChange', value: { to: JobState.JOB_STATE_CANCELLED } });
    expect((await client.cancelTrainingJob(job.name)).state).toBe(JobState.JOB_STATE_CANCELLED);
    await server.stop();
  });

  it('gives a hundred watchers, half of them reconnecting, every event once', { timeout: 120_000 }, async () => {
    const server = await ServerProcess.start();
    const { client } = server;
    const dataset = await uploadConversations(client, 6);
    const job = await client.createTrainingJob({ spec: spec(dataset, { numTrainEpochs: 20 }) });
    const watch = async (index: number) => {
      if (index % 2 === 0) return collect(client.watchTrainingJob(job.name));
      const all = await collect(client.watchTrainingJob(job.name), ({ sequence }) => sequence === (index % 40) + 1);
      return [...all, ...(await collect(client.watchTrainingJob(job.name, { afterSequence: all.length })))];
    };
    const everyone = await Promise.all(Array.from({ length: 100 }, (_, index) => watch(index)));
    const expected = await collect(client.watchTrainingJob(job.name));
    expect(expected.filter((event) => kind(event) === 'step')).toHaveLength(60);
    for (const events of everyone) expect(events).toEqual(expected);
    await server.stop();
  });
});

describe('SIGTERM', () => {
  it('ends streams with a retryable status and the process with 0', { timeout: 60_000 }, async () => {
    const server = await ServerProcess.start();
    const dataset = await uploadConversations(server.client, 6);
    const job = await server.client.createTrainingJob({ spec: spec(dataset, LONG) });
    const retry = { maxAttempts: 0 };
    const client = new LuthierClient({ address: server.address, retry });
    const watching = collect(client.watchTrainingJob(job.name), (event) => {
      if (kind(event) === 'step') server.signal('SIGTERM');
      return false;
    });
    await expect(watching).rejects.toMatchObject({ status: 'UNAVAILABLE', retryable: true });
    expect(await server.exited()).toMatchObject({ code: 0, signal: null });
    client.close();
  });
});
