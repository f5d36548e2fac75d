import { createHash } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerReadableStream, ServerUnaryCall, ServerWritableStream, sendUnaryData } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { LuthierClient } from './client.ts';
import {
  DatasetServiceService,
  type DeleteDatasetRequest,
  type GetDatasetRequest,
  GetDatasetResponse,
  type UploadDatasetRequest,
  UploadDatasetResponse,
} from './gen/luthier/v1/dataset_service.ts';
import {
  type GenerateRequest,
  GenerateResponse,
  GenerationServiceService,
} from './gen/luthier/v1/generation_service.ts';
import { eachPage } from './pages.ts';
import { Status } from './status.ts';
import { detailedError, scriptedServer, serviceError } from './testing/scripted-server.ts';
import { CHUNK_BYTES } from './upload.ts';

const fast = { initialDelayMs: 1, maxDelayMs: 5 };

type UploadCall = ServerReadableStream<UploadDatasetRequest, UploadDatasetResponse>;
type UploadDone = sendUnaryData<UploadDatasetResponse>;

test('an error carries everything its details say', async () => {
  await using server = await scriptedServer(DatasetServiceService, {
    getDataset: (_call: unknown, done: sendUnaryData<GetDatasetResponse>) => done(detailedError()),
  });
  await using client = new LuthierClient({ address: server.address });
  await expect(client.getDataset('datasets/d')).rejects.toMatchObject({
    name: 'LuthierError',
    message: 'data set datasets/d has 1 problem',
    code: 3,
    status: 'INVALID_ARGUMENT',
    reason: 'DATASET_INVALID',
    metadata: { lines: '9' },
    violations: [{ field: 'line[7].messages[1].content', description: 'expected text', reason: 'EMPTY_CONTENT' }],
    resource: { type: 'dataset', name: 'd' },
    retryable: true,
    retryDelayMs: 1500,
  });
});

test('an error without details keeps its status and text', async () => {
  await using server = await scriptedServer(DatasetServiceService, {
    getDataset: (_call: unknown, done: sendUnaryData<GetDatasetResponse>) =>
      done(serviceError(Status.NOT_FOUND, 'gone')),
  });
  await using client = new LuthierClient({ address: server.address });
  const expected = { status: 'NOT_FOUND', message: 'gone', reason: '', retryable: false, retryDelayMs: null };
  await expect(client.getDataset('datasets/d')).rejects.toMatchObject(expected);
});

test('a call that changes something is repeated with one request id; metadata and deadline go with it', async () => {
  const ids: string[] = [];
  await using server = await scriptedServer(DatasetServiceService, {
    deleteDataset: (call: ServerUnaryCall<DeleteDatasetRequest, object>, done: sendUnaryData<object>) => {
      ids.push(call.request.requestId);
      if (ids.length < 3) done(serviceError(Status.UNAVAILABLE, 'starting'));
      else done(null, {});
    },
    getDataset: async (call: ServerUnaryCall<GetDatasetRequest, object>, done: sendUnaryData<object>) => {
      if (call.request.name === 'slow') await sleep(2000);
      done(null, GetDatasetResponse.create({ dataset: { name: String(call.metadata.get('x-team')[0]) } }));
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast, metadata: { 'x-team': 'a' } });
  await client.deleteDataset('datasets/d');
  expect(ids).toHaveLength(3);
  expect(new Set(ids).size).toBe(1);
  expect((await client.getDataset('datasets/d')).name).toBe('a');
  expect((await client.getDataset('datasets/d', { metadata: { 'x-team': 'b' } })).name).toBe('b');
  await expect(client.getDataset('slow', { timeoutMs: 50 })).rejects.toMatchObject({ status: 'DEADLINE_EXCEEDED' });
  const signal = AbortSignal.timeout(50);
  await expect(client.getDataset('slow', { signal })).rejects.toMatchObject({ status: 'CANCELLED' });
});

test('an upload waits for a server that does not read', async () => {
  let reading = false;
  const read = Promise.withResolvers<void>();
  const hash = createHash('sha256');
  await using server = await scriptedServer(DatasetServiceService, {
    uploadDataset: async (call: UploadCall, done: UploadDone) => {
      await read.promise;
      reading = true;
      for await (const { part } of call as AsyncIterable<UploadDatasetRequest>) {
        if (part?.$case === 'chunk') hash.update(part.value);
      }
      done(null, UploadDatasetResponse.create({ dataset: { name: 'datasets/d', sha256: hash.digest('hex') } }));
    },
  });
  const piece = Buffer.alloc(CHUNK_BYTES, 'luthier ');
  const pieces = 256; // 64 MiB
  let produced = 0;
  let producedBeforeRead = 0;
  async function* source() {
    for (; produced < pieces; produced++) {
      if (!reading) producedBeforeRead = produced;
      yield piece;
    }
  }
  await using client = new LuthierClient({ address: server.address });
  const upload = client.uploadDataset(source());
  await sleep(300);
  expect(producedBeforeRead).toBeLessThan(32);
  read.resolve();
  const expected = createHash('sha256');
  for (let i = 0; i < pieces; i++) expected.update(piece);
  expect((await upload).sha256).toBe(expected.digest('hex'));
  expect(produced).toBe(pieces);
});

test('an upload ends when the server refuses it or its source fails', async () => {
  const cancelled = Promise.withResolvers<void>();
  await using server = await scriptedServer(DatasetServiceService, {
    uploadDataset: (call: UploadCall, done: UploadDone) => {
      call.on('data', ({ part }: UploadDatasetRequest) => {
        if (part?.$case !== 'header') return;
        if (part.value.datasetId === 'half') call.on('cancelled', () => cancelled.resolve());
        else {
          done(serviceError(Status.ALREADY_EXISTS, 'datasets/taken exists'));
        }
      });
    },
  });
  await using client = new LuthierClient({ address: server.address });
  async function* endless() {
    for (;;) {
      yield 'x'.repeat(1000);
      await sleep(1);
    }
  }
  const refused = client.uploadDataset(endless(), { datasetId: 'taken' });
  await expect(refused).rejects.toMatchObject({ status: 'ALREADY_EXISTS' });
  async function* failing() {
    yield 'half a line';
    await sleep(20);
    throw new Error('disk gone');
  }
  await expect(client.uploadDataset(failing(), { datasetId: 'half' })).rejects.toThrow('disk gone');
  await cancelled.promise;
});

test('a file is sent with its checksum, again where the server was not ready', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'luthier-client-'));
  const path = join(folder, 'data.jsonl');
  const text = '{"prompt":"a","completion":"b"}\n'.repeat(20_000);
  await writeFile(path, text);
  const headers: unknown[] = [];
  let received = '';
  await using server = await scriptedServer(DatasetServiceService, {
    uploadDataset: async (call: UploadCall, done: UploadDone) => {
      received = '';
      for await (const { part } of call as AsyncIterable<UploadDatasetRequest>) {
        if (part?.$case === 'header') headers.push(part.value);
        else if (part?.$case === 'chunk') received += part.value.toString('utf8');
      }
      if (headers.length === 1) done(serviceError(Status.UNAVAILABLE, 'draining'));
      else done(null, UploadDatasetResponse.create({ dataset: { name: 'datasets/d' } }));
    },
  });
  await using client = new LuthierClient({ address: server.address, retry: fast });
  expect((await client.uploadDatasetFile(path, { datasetId: 'd' })).name).toBe('datasets/d');
  expect(received).toBe(text);
  const sha256 = createHash('sha256').update(text).digest('hex');
  expect(headers).toHaveLength(2);
  expect(headers[1]).toEqual(headers[0]);
  expect(headers[0]).toMatchObject({ datasetId: 'd', sha256 });
  await rm(folder, { recursive: true });
});

test('a reader that stops reading holds the server back; leaving the loop cancels', async () => {
  let written = 0;
  const cancelled = Promise.withResolvers<void>();
  await using server = await scriptedServer(GenerationServiceService, {
    generate: (call: ServerWritableStream<GenerateRequest, GenerateResponse>) => {
      const delta = GenerateResponse.create({ event: { $case: 'delta', value: { text: 'x'.repeat(1000) } } });
      let running = true;
      call.on('cancelled', () => {
        running = false;
        cancelled.resolve();
      });
      const fill = () => {
        while (running && written < 100_000) {
          written += 1;
          if (!call.write(delta)) {
            call.once('drain', fill);
            return;
          }
        }
      };
      fill();
    },
  });
  await using client = new LuthierClient({ address: server.address });
  for await (const { event } of client.generate({ model: 'models/m' })) {
    expect(event?.$case).toBe('delta');
    await sleep(300);
    break;
  }
  await cancelled.promise;
  expect(written).toBeLessThan(20_000);
});

test('pages follow one another', async () => {
  const pages = eachPage(async (token) => ({ token, nextPageToken: token === '' ? 'b' : token === 'b' ? 'c' : '' }));
  const tokens: string[] = [];
  for await (const page of pages) tokens.push(page.token);
  expect(tokens).toEqual(['', 'b', 'c']);
});
