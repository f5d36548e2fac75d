/** What a user does, from data to an adapter that answers: a real server process, real gRPC, a real (tiny) model. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FinishReason, type GenerateResponse, JobState, LoadIn } from '../../clients/typescript/src/index.ts';
import { collect, everything, kind, losses, spec, uploadConversations } from './support/examples.ts';
import { removeTemporaryFolders, ServerProcess, temporaryFolder } from './support/server-process.ts';

let server: ServerProcess;

beforeAll(async () => {
  server = await ServerProcess.start();
}, 30_000);

afterAll(async () => {
  await server.stop();
  removeTemporaryFolders();
});

async function generate(adapter: string): Promise<GenerateResponse[]> {
  const messages = { messages: [{ role: 'user', content: 'What is 3?' }] };
  const request = {
    model: 'models/tiny',
    adapter,
    prompt: { input: { $case: 'messages' as const, value: messages } },
    sampling: { maxNewTokens: 24, temperature: 0 },
  };
  return everything(server.client.generate(request));
}

const text = (responses: readonly GenerateResponse[]): string =>
  responses.map(({ event }) => (event?.$case === 'delta' ? event.value.text : '')).join('');

describe('from data to an adapter that answers', () => {
  it('trains, stores, exports, imports and generates', { timeout: 120_000 }, async () => {
    const { client } = server;
    const dataset = await uploadConversations(client, 8);
    const report = await client.validateDataset({ dataset, model: 'models/tiny' });
    expect(report).toMatchObject({ examples: 8, problemCount: 0, problems: [] });
    expect(report.labelTokens).toBeGreaterThan(0);
    expect(report.labelTokens).toBeLessThan(report.tokens);

    const { examples } = await client.previewExamples({
      source: { $case: 'dataset', value: dataset },
      model: 'models/tiny',
      indices: [2],
    });
    const tokens = examples[0]?.tokens ?? [];
    const learned = Buffer.concat(
      tokens.filter(({ label }) => label >= 0).map(({ id }) => Buffer.from(id < 256 ? [id] : [])),
    );
    expect(learned.toString('utf8')).toBe('It is 2.It is 4. 好 🙂');

    const settings = { numTrainEpochs: 12, validationSplit: 0.25, output: 'story', lrSchedulerType: 'cosine' };
    const events = await collect(client.train(spec(dataset, settings)));
    expect(events.map(({ sequence }) => sequence)).toEqual(events.map((_, index) => index + 1));
    expect(events.filter((event) => kind(event) === 'step')).toHaveLength(36);
    expect(losses(events).at(-1)).toBeLessThan(0.7 * (losses(events)[0] ?? 0));
    const evaluations = events.filter((event) => kind(event) === 'evaluation');
    expect(evaluations.length).toBe(13);

    const name = events[0]?.job ?? '';
    const job = await client.getTrainingJob(name);
    expect(job).toMatchObject({ state: JobState.JOB_STATE_SUCCEEDED, adapter: 'adapters/story' });
    expect(await collect(client.watchTrainingJob(name))).toEqual(events);
    expect(await collect(client.watchTrainingJob(name, { afterSequence: 10 }))).toEqual(events.slice(10));

    const adapted = await generate('adapters/story');
    const base = await generate('');
    expect(text(adapted)).not.toBe(text(base));
    const finished = adapted.at(-1)?.event;
    expect(finished?.$case === 'finished' && finished.value.completionTokens).toBeGreaterThan(0);
    expect(text(await generate(name)), 'a job names its adapter').toBe(text(adapted));

    const folder = join(temporaryFolder(), 'exported');
    await client.exportAdapter({ name: 'adapters/story', path: folder });
    expect(readdirSync(folder).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    await expect(client.exportAdapter({ name: 'adapters/story', path: folder })).rejects.toMatchObject({
      reason: 'EXPORT_TARGET_NOT_EMPTY',
    });
  });

  it('trains on 4-bit weights and generates from the adapter beside them, and beside the weights as stored', {
    timeout: 120_000,
  }, async () => {
    const { client } = server;
    const settings = { numTrainEpochs: 6, output: 'quantized', loadIn: LoadIn.LOAD_IN_4BIT };
    const events = await collect(client.train(spec(await uploadConversations(client, 4), settings)));
    expect(losses(events).at(-1)).toBeLessThan(losses(events)[0] ?? 0);
    const model = await client.getModel('models/tiny');
    expect(model.loadedWeights).toContainEqual(
      expect.objectContaining({ loadIn: LoadIn.LOAD_IN_4BIT, storageType: 'nf4', users: 0 }),
    );
    const prompt = { input: { $case: 'tokenIds' as const, value: { ids: [1, 2, 3, 4] } } };
    const score = async (loadIn: LoadIn) =>
      (await client.scoreTokens({ adapter: 'adapters/quantized', prompt, loadIn })).meanNll;
    const [four, stored] = [await score(LoadIn.LOAD_IN_4BIT), await score(LoadIn.LOAD_IN_UNSPECIFIED)];
    expect(four).not.toBe(stored);
    expect(Math.abs(four - stored)).toBeLessThan(1);
    const loaded = await client.loadModel('models/tiny', { loadIn: LoadIn.LOAD_IN_8BIT });
    expect(loaded.storageType).toBe('int8');
    expect(loaded.loadedWeights).toHaveLength(3);
  });

  it('scores tokens as natural logarithms', async () => {
    const prompt = { input: { $case: 'tokenIds' as const, value: { ids: [72, 105, 33] } } };
    const { tokens, meanNll } = await server.client.scoreTokens({ model: 'models/tiny', prompt, topLogits: 3 });
    expect(tokens.map(({ tokenId }) => tokenId)).toEqual([72, 105, 33]);
    expect(tokens[0]?.logprob).toBeUndefined();
    const sum = tokens.slice(1).reduce((total, { logprob }) => total - (logprob ?? Number.NaN), 0);
    expect(meanNll).toBeCloseTo(sum / 2, 5);
    for (const { topLogits } of tokens) {
      const logits = topLogits.map(({ logit }) => logit);
      expect(logits).toEqual([...logits].sort((a, b) => b - a));
      expect(logits).toHaveLength(3);
    }
  });

  it('generates the same for the same seed, and stops where it is told', async () => {
    const prompt = { input: { $case: 'text' as const, value: 'Once' } };
    const run = async (seed: number) =>
      text(
        await everything(
          server.client.generate({
            model: 'models/tiny',
            prompt,
            sampling: { maxNewTokens: 20, temperature: 1, topP: 0.9, seed, ignoreEos: true },
          }),
        ),
      );
    expect(await run(1)).toBe(await run(1));
    expect(await run(1)).not.toBe(await run(2));
    const short = await everything(
      server.client.generate({
        model: 'models/tiny',
        prompt,
        sampling: { maxNewTokens: 5, temperature: 0, ignoreEos: true },
      }),
    );
    const last = short.at(-1)?.event;
    expect(last?.$case === 'finished' && last.value).toMatchObject({
      reason: FinishReason.FINISH_REASON_LENGTH,
      completionTokens: 5,
    });
  });
});
