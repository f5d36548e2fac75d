/** A template of one's own over real gRPC, from a data set to the answers of the adapter, on another server, too. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { LuthierClient } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

const MINE = 'id: mine\nversion: "3"\nuser: "Q{n}: {content}\\nA:"\nassistant: " {content}"\nstop: ["\\nQ"]\n';
const LINES =
  '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},{"role":"assistant","content":"d"}]}\n';

async function start() {
  const root = mkdtempSync(join(tmpdir(), 'luthier-templates-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir: join(root, 'data'),
    threads: 1,
    models: { fake: '/models/fake' },
    drainSeconds: 0,
  });
  const logger = createLogger({ level: 'silent', format: 'json' });
  const server = await createServer(settings, { engine: createFakeEngine(), logger });
  const { address } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  onTestFinished(async () => {
    client.close();
    await server.close();
  });
  return { client, root };
}

const messages = [{ role: 'user', content: 'a', weight: undefined }];
const prompt = (more: object = {}) => ({
  input: { $case: 'messages' as const, value: { messages } },
  parseSpecial: false,
  template: '',
  allowTemplateMismatch: false,
  ...more,
});

async function startedOf(client: LuthierClient, adapter: string, more: object = {}) {
  for await (const { event } of client.generate({ adapter, prompt: prompt(more), sampling: { maxNewTokens: 1 } })) {
    if (event?.$case === 'started') return event.value;
  }
  throw new Error('nothing started');
}

test('a template of one’s own is trained with, kept by the adapter, and found again elsewhere', {
  timeout: 60_000,
}, async () => {
  const { client, root } = await start();
  const dataset = await client.uploadDataset([LINES]);
  const { examples } = await client.previewExamples({
    source: { $case: 'dataset', value: dataset.name },
    model: 'models/fake',
    template: MINE,
  });
  expect(examples[0]?.tokens.map(({ text }) => text).join('')).toMatch(/^Q1: a\nA: bQ2: c\nA: d/);

  const spec = { model: 'models/fake', dataset: dataset.name, template: MINE, output: 'mine', maxSteps: 1 };
  const job = await client.createTrainingJob({ spec });
  for await (const _ of client.watchTrainingJob(job.name));
  const { template } = await client.getAdapter('adapters/mine');
  expect(template).toMatchObject({ id: 'mine', version: '3', hash: expect.stringMatching(/^[0-9a-f]{64}$/) });
  expect(await startedOf(client, 'adapters/mine')).toMatchObject({ template, warnings: [] });
  // The same definition under another spelling is the same template.
  const json = JSON.stringify({ id: 'mine', user: 'Q{n}: {content}\nA:', assistant: ' {content}', stop: ['\nQ'] });
  expect(await startedOf(client, 'adapters/mine', { template: json })).toMatchObject({ warnings: [] });

  const folder = join(root, 'out');
  await client.downloadAdapter('adapters/mine', folder);
  const { client: other } = await start();
  await other.uploadAdapter(folder, { adapterId: 'theirs' });
  const elsewhere = await startedOf(other, 'adapters/theirs');
  expect(elsewhere).toMatchObject({ template, warnings: [] });
  expect((await other.getAdapter('adapters/theirs')).template).toEqual(template);
});

test('another template than the adapter’s is refused unless that is allowed', { timeout: 60_000 }, async () => {
  const { client } = await start();
  const dataset = await client.uploadDataset([LINES]);
  const spec = { model: 'models/fake', dataset: dataset.name, template: 'tutorial', output: 'rounds', maxSteps: 1 };
  const job = await client.createTrainingJob({ spec });
  for await (const _ of client.watchTrainingJob(job.name));
  await expect(startedOf(client, 'adapters/rounds', { template: 'chatglm2' })).rejects.toMatchObject({
    reason: 'TEMPLATE_MISMATCH',
    message: expect.stringMatching(/trained with template tutorial .* rendered with chatglm2/),
  });
  // A job that goes on with another template says so.
  const next = await client.createTrainingJob({
    spec: { ...spec, template: 'concat', initAdapter: 'adapters/rounds', output: 'next' },
  });
  const warnings = [];
  for await (const { event } of client.watchTrainingJob(next.name))
    if (event?.$case === 'warning') warnings.push(event.value);
  expect(warnings).toEqual([
    {
      reason: 'TEMPLATE_MISMATCH',
      message: expect.stringMatching(/^adapters\/rounds was trained with template tutorial .* with concat/),
    },
  ]);
  const started = await startedOf(client, 'adapters/rounds', { template: 'chatglm2', allowTemplateMismatch: true });
  expect(started).toMatchObject({ template: { id: 'chatglm2' }, warnings: [expect.stringContaining('tutorial')] });
});

test('a template file that is not valid is refused before any work, by every call that takes one', async () => {
  const { client } = await start();
  const dataset = await client.uploadDataset([LINES]);
  const common = { model: 'models/fake', template: 'id: mine\nuser: "{question}"' };
  const refusal = { reason: 'INVALID_REQUEST', message: expect.stringContaining('{question} is no placeholder here') };
  const source = { $case: 'dataset' as const, value: dataset.name };
  await expect(client.createTrainingJob({ spec: { ...common, dataset: dataset.name } })).rejects.toMatchObject(refusal);
  await expect(client.previewExamples({ ...common, source })).rejects.toMatchObject(refusal);
  await expect(client.validateDataset({ ...common, dataset: dataset.name })).rejects.toMatchObject(refusal);
  await expect(client.renderPrompt({ ...common, messages })).rejects.toMatchObject(refusal);
  await expect(client.renderPrompt({ ...common, template: 'x'.repeat(16_385), messages })).rejects.toMatchObject({
    reason: 'INVALID_REQUEST',
    message: expect.stringContaining('at most 16384 characters'),
  });
});
