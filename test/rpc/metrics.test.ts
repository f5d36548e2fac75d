/** The metrics page and the metric files of a server with jobs, over real HTTP and gRPC, with an engine without a device. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { DatasetFormat, LuthierClient } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { parsePage } from '../../src/metrics/testing/parse-page.ts';
import { createServer } from '../../src/server.ts';

const LINE = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n';

async function open(settings: Record<string, unknown>, beforeStep: (step: number) => Promise<void> = async () => {}) {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-page-'));
  const server = await createServer(
    serverConfigSchema.parse({
      port: 0,
      dataDir,
      threads: 1,
      models: { fake: '/models/fake' },
      drainSeconds: 0,
      ...settings,
    }),
    { engine: createFakeEngine({ beforeStep }), logger: createLogger({ level: 'silent', format: 'json' }) },
  );
  onTestFinished(async () => {
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  return { server, dataDir };
}

async function setUp(settings: Record<string, unknown>, beforeStep?: (step: number) => Promise<void>) {
  const { server, dataDir } = await open(settings, beforeStep);
  const { address, metricsAddress } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  onTestFinished(() => client.close());
  const { name: dataset } = await client.uploadDataset([LINE.repeat(4)], {
    format: DatasetFormat.DATASET_FORMAT_MESSAGES,
  });
  const spec = { model: 'models/fake', dataset, perDeviceTrainBatchSize: 2, numTrainEpochs: 2 };
  const scrape = async () => {
    const response = await fetch(`http://${metricsAddress}/metrics`);
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
    return parsePage(await response.text());
  };
  const value = async (sample: string): Promise<number | undefined> => {
    const name = sample.replace(/\{.*/, '').replace(/_(count|sum|bucket)$/, '');
    return (await scrape()).get(name)?.samples.get(sample);
  };
  return { client, server, dataDir, metricsAddress, spec, scrape, value };
}

test('the page follows the jobs, and every metric on it is in the documentation', async () => {
  const opened = Promise.withResolvers<void>();
  onTestFinished(() => opened.resolve());
  const gate = async (step: number): Promise<void> => (step === 2 ? opened.promise : undefined);
  const { client, spec, scrape, value } = await setUp({ metricsAddress: '127.0.0.1:0' }, gate);
  expect((await scrape()).has('luthier_training_loss')).toBe(false);
  const first = await client.createTrainingJob({ spec });
  const second = await client.createTrainingJob({ spec });
  await vi.waitFor(async () => expect(await value('luthier_training_steps_total')).toBe(1));
  const { lastStep } = await client.getTrainingJob(first.name);
  expect(await value('luthier_training_loss')).toBe(lastStep?.loss);
  expect(await value('luthier_training_tokens_total')).toBe(lastStep?.tokens);
  expect(await value('luthier_training_tokens_per_second')).toBe(lastStep?.tokensPerSecond);
  expect(await value('luthier_training_peak_allocated_bytes')).toBe(lastStep?.peakAllocatedBytes);
  expect(await value('luthier_jobs{state="running"}')).toBe(1);
  expect(await value('luthier_job_queue_length')).toBe(1);
  expect(await value('luthier_token_cache_bytes')).toBeGreaterThan(0);
  const created = 'method="luthier.v1.TrainingService/CreateTrainingJob",status="OK"';
  expect(await value(`luthier_grpc_call_duration_seconds_count{${created}}`)).toBe(2);
  await expect(client.getTrainingJob('trainingJobs/none')).rejects.toThrow();
  const missed = 'method="luthier.v1.TrainingService/GetTrainingJob",status="NOT_FOUND"';
  expect(await value(`luthier_grpc_call_duration_seconds_count{${missed}}`)).toBe(1);

  const page = await scrape();
  const documentation = readFileSync(new URL('../../docs/operations.md', import.meta.url), 'utf8');
  for (const name of page.keys()) expect(documentation).toContain(`\`${name}\``);
  // Nothing that grows with what is stored names a sample.
  const samples = [...page.values()].flatMap((family) => [...family.samples.keys()]);
  for (const sample of samples) expect(sample).not.toMatch(/trainingJobs|datasets\/|adapters\/|127\.0\.0\.1/);

  opened.resolve();
  for await (const _ of client.watchTrainingJob(second.name));
  await vi.waitFor(async () => expect((await scrape()).has('luthier_training_loss')).toBe(false));
  expect(await value('luthier_jobs{state="succeeded"}')).toBe(2);
  expect(await value('luthier_training_steps_total')).toBe(8);
});

test('other paths and methods are refused', async () => {
  const { metricsAddress } = await setUp({ metricsAddress: '127.0.0.1:0' });
  expect((await fetch(`http://${metricsAddress}/`)).status).toBe(404);
  expect((await fetch(`http://${metricsAddress}/metrics`, { method: 'POST' })).status).toBe(405);
  const head = await fetch(`http://${metricsAddress}/metrics`, { method: 'HEAD' });
  expect([head.status, await head.text()]).toEqual([200, '']);
});

test('an address that is taken is said so, by the name of its setting', async () => {
  const other = createHttpServer().listen(0, '127.0.0.1');
  onTestFinished(() => void other.close());
  await new Promise((resolve) => other.once('listening', resolve));
  const { server } = await open({ metricsAddress: `127.0.0.1:${(other.address() as AddressInfo).port}` });
  await expect(server.start()).rejects.toThrow(/is taken by another program.*--metrics-address/);
});

test.each([true, false])("a job's metric files: %s", async (metricFiles) => {
  const { client, server, dataDir, metricsAddress, spec } = await setUp({ metricFiles });
  expect(metricsAddress).toBeNull();
  const { name } = await client.createTrainingJob({ spec });
  for await (const _ of client.watchTrainingJob(name));
  await server.close();
  const runs = readdirSync(join(dataDir, 'runs'));
  expect(runs).toEqual(metricFiles ? [name.replace('trainingJobs/', '')] : []);
  if (!metricFiles) return;
  const lines = readFileSync(join(dataDir, 'runs', runs[0] ?? '', 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n');
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { step: 1 },
    { step: 2 },
    { step: 3 },
    { step: 4, 'train/loss': 2.5 },
    { state: 'succeeded' },
  ]);
});
