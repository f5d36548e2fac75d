/** Traces of a server with jobs, as a collector gets them over real HTTP. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials, Metadata } from '@grpc/grpc-js';
import { expect, onTestFinished, test, vi } from 'vitest';
import { DatasetFormat, LuthierClient } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { EngineError } from '../../src/engine/errors.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { GetServerInfoRequest, ModelServiceClient } from '../../src/gen/luthier/v1/model_service.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

const LINE = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n';

interface SentSpan {
  readonly name: string;
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status: { readonly code?: number; readonly message?: string };
  readonly attributes: readonly { readonly key: string; readonly value: Record<string, unknown> }[];
  readonly events: readonly { readonly name: string }[];
}

/** The part of the protocol's JSON that is looked at. */
interface SentTraces {
  readonly resourceSpans: readonly { readonly scopeSpans: readonly { readonly spans: readonly SentSpan[] }[] }[];
}

async function openCollector() {
  const spans: SentSpan[] = [];
  const paths = new Set<string>();
  const collector = createHttpServer(async (request, response) => {
    paths.add(`${request.method} ${request.url}`);
    const parts: Buffer[] = [];
    for await (const part of request) parts.push(part);
    const { resourceSpans } = JSON.parse(Buffer.concat(parts).toString()) as SentTraces;
    spans.push(...resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans)));
    response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
  });
  await new Promise<void>((resolve) => collector.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void collector.close());
  return { spans, paths, endpoint: `http://127.0.0.1:${(collector.address() as AddressInfo).port}` };
}

async function open(otlpEndpoint: string, beforeStep: (step: number) => void = () => {}) {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-traces-'));
  const options = { port: 0, dataDir, threads: 1, models: { fake: '/models/fake' }, drainSeconds: 0, otlpEndpoint };
  const lines: { readonly msg?: string; readonly message?: string }[] = [];
  const server = await createServer(serverConfigSchema.parse(options), {
    engine: createFakeEngine({ beforeStep }),
    logger: createLogger({ level: 'warn', format: 'json' }, { write: (line) => void lines.push(JSON.parse(line)) }),
  });
  onTestFinished(async () => {
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  const { address } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  onTestFinished(() => client.close());
  return { server, client, address, lines };
}

/** Runs one job to its end. @returns its name */
async function runJob(client: LuthierClient): Promise<string> {
  const { name: dataset } = await client.uploadDataset([LINE.repeat(4)], {
    format: DatasetFormat.DATASET_FORMAT_MESSAGES,
  });
  const spec = { model: 'models/fake', dataset, perDeviceTrainBatchSize: 2, numTrainEpochs: 2, labels: { team: 'x' } };
  const { name } = await client.createTrainingJob({ spec });
  await vi.waitFor(async () => expect((await client.getTrainingJob(name)).endTime).toBeDefined());
  return name;
}

const attribute = ({ attributes }: SentSpan, key: string): unknown =>
  Object.values(attributes.find((found) => found.key === key)?.value ?? {})[0];

test("a job is one trace with the job's id: the whole, and in it each state, end to start", async () => {
  const { spans, paths, endpoint } = await openCollector();
  const { server, client } = await open(endpoint);
  const name = await runJob(client);
  await server.close();
  expect([...paths]).toEqual(['POST /v1/traces']);
  const traceId = name.replace('trainingJobs/', '').replaceAll('-', '');
  const trace = spans.filter((span) => span.traceId === traceId);
  const whole = trace.find((span) => span.name === 'training job');
  if (!whole) throw new Error('there is no span of the whole job');
  expect(whole.parentSpanId).toBeUndefined();
  expect(attribute(whole, 'luthier.job')).toBe(name);
  expect(attribute(whole, 'luthier.label.team')).toBe('x');
  expect(attribute(whole, 'luthier.state')).toBe('SUCCEEDED');
  expect(attribute(whole, 'luthier.global_step')).toBe(4);
  const states = trace.filter((span) => span !== whole);
  expect(states.map((span) => span.name)).toEqual(['queued', 'validating', 'loading', 'running']);
  expect(new Set(states.map((span) => span.parentSpanId))).toEqual(new Set([whole.spanId]));
  const starts = [...states.map((span) => span.startTimeUnixNano), whole.endTimeUnixNano];
  expect([whole.startTimeUnixNano, ...states.map((span) => span.endTimeUnixNano)]).toEqual(starts);
  expect(states.at(-1)?.events.map((event) => event.name)).toEqual(['adapter saved']);
});

test('a failed job says why', async () => {
  const { spans, endpoint } = await openCollector();
  const { server, client } = await open(endpoint, () => {
    throw new EngineError('NON_FINITE_LOSS', 'the loss is NaN');
  });
  await runJob(client);
  await server.close();
  const whole = spans.find((span) => span.name === 'training job');
  expect(whole?.status).toEqual({ code: 2, message: 'the loss is NaN' });
  expect(whole && attribute(whole, 'error.type')).toBe('NON_FINITE_LOSS');
});

test("a call is a span in the client's trace, or in one of its own", async () => {
  const { spans, endpoint } = await openCollector();
  const { server, client, address } = await open(endpoint);
  const plain = new ModelServiceClient(address, credentials.createInsecure());
  onTestFinished(() => plain.close());
  const call = async (traceparent: string): Promise<void> => {
    const metadata = new Metadata();
    metadata.set('traceparent', traceparent);
    await new Promise<void>((resolve, reject) => {
      plain.getServerInfo(GetServerInfoRequest.create(), metadata, (error) => (error ? reject(error) : resolve()));
    });
  };
  const [traceId, spanId] = ['4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7'];
  await call(`00-${traceId}-${spanId}-01`);
  await call(`00-${'0'.repeat(32)}-${spanId}-01`);
  await call(`00-${traceId.replace('4b', '5c')}-${spanId}-00`);
  await expect(client.getTrainingJob('trainingJobs/none')).rejects.toThrow();
  await server.close();
  const calls = spans.filter((span) => span.name === 'luthier.v1.ModelService/GetServerInfo');
  // The third client does not sample.
  expect(calls).toHaveLength(2);
  expect(calls[0]).toMatchObject({ traceId, parentSpanId: spanId });
  expect(calls[1]?.parentSpanId).toBeUndefined();
  const failed = spans.find((span) => span.name === 'luthier.v1.TrainingService/GetTrainingJob');
  expect(failed && [attribute(failed, 'rpc.grpc.status_code'), attribute(failed, 'error.type')]).toEqual([
    5,
    'JOB_NOT_FOUND',
  ]);
  // A client's mistake is not the server's.
  expect(failed?.status.code ?? 0).toBe(0);
});

test('a collector that is not there is told of, and holds nothing up', async () => {
  const { endpoint } = await openCollector();
  const { server, client, lines } = await open(endpoint.replace(/\d+$/, '1'));
  await runJob(client);
  await server.close();
  expect(lines).toContainEqual(expect.objectContaining({ msg: 'traces could not be sent' }));
});
