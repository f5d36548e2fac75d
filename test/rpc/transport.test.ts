import { credentials, Metadata, status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { LuthierError } from '../../src/errors/luthier-error.ts';
import { DatasetServiceClient, UploadDatasetRequest } from '../../src/gen/luthier/v1/dataset_service.ts';
import { GenerateRequest, GenerateResponse } from '../../src/gen/luthier/v1/generation_service.ts';
import { TokenizeRequest } from '../../src/gen/luthier/v1/tokenizer_service.ts';
import type { CallContext } from '../../src/rpc/handlers.ts';
import { decodeError, refusal, startLoopback, startProxy, unary, until } from './loopback.ts';

const delta = (text: string): GenerateResponse =>
  GenerateResponse.create({ event: { $case: 'delta', value: { text } } });

const textOf = (response: GenerateResponse): string =>
  response.event?.$case === 'delta' ? (response.event.value?.text ?? '') : '';

async function collect(stream: AsyncIterable<GenerateResponse>): Promise<string[]> {
  const texts: string[] = [];
  for await (const response of stream) texts.push(textOf(response));
  return texts;
}

const tick = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

test('a unary call: request, response, metadata, deadline, peer', async () => {
  let seen: CallContext | null = null;
  const { tokenizer, records } = await startLoopback({
    tokenizer: {
      tokenize: async ({ text }, context) => {
        seen = context;
        return { tokenIds: [...Buffer.from(text)], pieces: [] };
      },
    },
  });
  const metadata = new Metadata();
  metadata.set('x-team', 'blue');
  metadata.set('x-secret-bin', Buffer.from([1]));
  const deadline = new Date(Date.now() + 60_000);
  const response = await new Promise((resolve, reject) => {
    tokenizer.tokenize(TokenizeRequest.create({ text: 'ab' }), metadata, { deadline }, (error, value) =>
      error ? reject(error) : resolve(value),
    );
  });
  expect(response).toEqual({ tokenIds: [97, 98], pieces: [] });
  const context = seen as unknown as CallContext;
  expect(context.metadata.get('x-team')).toBe('blue');
  expect(context.metadata.has('x-secret-bin')).toBe(false);
  expect(context.peer).toMatch(/^127\.0\.0\.1:\d+$/);
  expect(Math.abs((context.deadline?.getTime() ?? 0) - deadline.getTime())).toBeLessThan(2000);
  await until(() => records.length === 1);
  expect(records[0]).toMatchObject({ method: '/luthier.v1.TokenizerService/Tokenize', status: 'OK', reason: null });
  // grpc-js reports `cancelled` after success too; it must not reach the handler.
  await tick(20);
  expect(context.signal.aborted).toBe(false);
});

test('a stream arrives whole and in order', async () => {
  const { generation } = await startLoopback({
    generation: {
      generate: async function* () {
        for (let index = 0; index < 500; index++) yield delta(String(index));
      },
    },
  });
  const texts = await collect(generation.generate(GenerateRequest.create({})));
  expect(texts).toEqual(Array.from({ length: 500 }, (_, index) => String(index)));
});

test('a reader that stops reading holds the generator back, and gets everything when it reads on', async () => {
  const total = 3000;
  const text = 'x'.repeat(4096);
  let produced = 0;
  const { generation } = await startLoopback({
    generation: {
      generate: async function* () {
        for (; produced < total; produced++) yield delta(text);
      },
    },
  });
  const stream = generation.generate(GenerateRequest.create({}));
  const iterator = stream[Symbol.asyncIterator]();
  await iterator.next();
  let last = -1;
  while (produced !== last) {
    last = produced;
    await tick(100);
  }
  // What the windows of HTTP/2 and the buffers on both sides hold, and no more.
  expect(produced).toBeLessThan(total / 4);
  let read = 1;
  while (!(await iterator.next()).done) read += 1;
  expect(read).toBe(total);
  expect(produced).toBe(total);
});

test('cancelling aborts the signal and runs the finally block of a generator that waits', async () => {
  let aborted = false;
  let cleaned = false;
  const { generation, records } = await startLoopback({
    generation: {
      generate: async function* (_request, { signal }) {
        signal.addEventListener('abort', () => {
          aborted = true;
        });
        try {
          for (;;) {
            yield delta('.');
            await tick(5);
          }
        } finally {
          cleaned = true;
        }
      },
    },
  });
  const stream = generation.generate(GenerateRequest.create({}));
  stream.on('error', () => undefined);
  await new Promise((resolve) => stream.once('data', resolve));
  stream.cancel();
  await until(() => aborted && cleaned && records.length === 1);
  expect(records[0]).toMatchObject({ status: 'CANCELLED', reason: 'CANCELLED' });
});

test('who stops reading a resumable stream loses it with where to go on, behind what was written', async () => {
  let written = 0;
  let closed = false;
  const { generation, records } = await startLoopback({
    stallMilliseconds: 50,
    resumable: (last) => ({ after_sequence: textOf(last).slice(0, 8).trim() }),
    generation: {
      generate: async function* () {
        try {
          for (;;) {
            written += 1;
            yield delta(String(written).padEnd(10_000));
          }
        } finally {
          closed = true;
        }
      },
    },
  });
  const responses = generation.generate(GenerateRequest.create({}))[Symbol.asyncIterator]();
  const texts: string[] = [];
  const read = async (): Promise<boolean> => {
    const { value, done } = await responses.next();
    if (!done) texts.push(textOf(value).trim());
    return done !== true;
  };
  // A client that never asks for the first message takes in whatever comes.
  await read();
  await until(() => closed && records.length === 1);
  expect(records[0]).toMatchObject({ status: 'ABORTED', reason: 'SLOW_CONSUMER' });
  const error = await (async () => {
    while (await read());
    return null;
  })().catch((thrown: unknown) => thrown);
  expect(texts).toEqual(Array.from({ length: texts.length }, (_, index) => String(index + 1)));
  const { code, info, retry } = decodeError(error as Parameters<typeof decodeError>[0]);
  expect(code).toBe(status.ABORTED);
  expect(info).toMatchObject({ reason: 'SLOW_CONSUMER', metadata: { after_sequence: String(texts.length) } });
  expect(retry).not.toBeNull();
});

test('cancelling ends a stream that is held back by its reader', async () => {
  let cleaned = false;
  const { generation } = await startLoopback({
    generation: {
      generate: async function* () {
        try {
          for (;;) yield delta('x'.repeat(65_536));
        } finally {
          cleaned = true;
        }
      },
    },
  });
  const stream = generation.generate(GenerateRequest.create({}));
  stream.on('error', () => undefined);
  await stream[Symbol.asyncIterator]().next();
  await tick(100);
  expect(cleaned).toBe(false);
  stream.cancel();
  await until(() => cleaned);
});

test('a deadline reaches the client as DEADLINE_EXCEEDED and aborts the handler', async () => {
  let reason: unknown = null;
  const { generation, records } = await startLoopback({
    generation: {
      generate: async function* (_request, { signal }) {
        yield delta('first');
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
        reason = signal.reason;
      },
    },
  });
  const deadline = Date.now() + 150;
  const error = await refusal(collect(generation.generate(GenerateRequest.create({}), new Metadata(), { deadline })));
  expect(error.code).toBe(status.DEADLINE_EXCEEDED);
  await until(() => records.length === 1 && reason !== null);
  expect(records[0]?.status).toMatch(/^(DEADLINE_EXCEEDED|CANCELLED)$/);
});

test('an upload is read at the pace of the handler', async () => {
  const release = Promise.withResolvers<void>();
  let read = 0;
  const { dataset } = await startLoopback({
    dataset: {
      uploadDataset: async (requests) => {
        await release.promise;
        for await (const _ of requests) read += 1;
        return { dataset: undefined, problems: [] };
      },
    },
  });
  const done = Promise.withResolvers<void>();
  const upload = dataset.uploadDataset((error) => (error ? done.reject(error) : done.resolve()));
  const chunk = UploadDatasetRequest.create({ part: { $case: 'chunk', value: Buffer.alloc(65_536) } });
  const total = 200;
  let written = 0;
  const writing = (async () => {
    for (; written < total; written++) {
      if (!upload.write(chunk)) await new Promise((resolve) => upload.once('drain', resolve));
    }
    upload.end();
  })();
  let last = -1;
  while (written !== last) {
    last = written;
    await tick(100);
  }
  expect(written).toBeLessThan(total / 2);
  release.resolve();
  await writing;
  await done.promise;
  expect(read).toBe(total);
});

test.each([
  ['cancels', (upload: { cancel(): void }) => upload.cancel()],
  ['loses its connection', (_upload: unknown, dropConnections: () => void) => dropConnections()],
])('a client that %s in the middle of an upload ends the iteration with CANCELLED', async (_name, vanish) => {
  let thrown: unknown = null;
  let read = 0;
  const { address, records } = await startLoopback({
    dataset: {
      uploadDataset: async (requests) => {
        try {
          for await (const _ of requests) read += 1;
        } catch (error) {
          thrown = error;
          throw error;
        }
        return { dataset: undefined, problems: [] };
      },
    },
  });
  const proxy = await startProxy(address);
  const dataset = new DatasetServiceClient(proxy.address, credentials.createInsecure());
  const upload = dataset.uploadDataset(() => undefined);
  upload.write(UploadDatasetRequest.create({ part: { $case: 'chunk', value: Buffer.from('a') } }));
  await until(() => read === 1);
  vanish(upload, proxy.dropConnections);
  await until(() => records.length === 1);
  expect(thrown).toBeInstanceOf(LuthierError);
  expect((thrown as LuthierError).reason).toBe('CANCELLED');
  dataset.close();
});

test('an upload can be refused before it has ended', async () => {
  const { dataset } = await startLoopback({
    dataset: {
      uploadDataset: async (requests) => {
        for await (const _ of requests) throw new LuthierError('DATASET_EXISTS', 'datasets/a exists');
        return { dataset: undefined, problems: [] };
      },
    },
  });
  const error = await refusal(
    new Promise<void>((resolve, reject) => {
      const upload = dataset.uploadDataset((failure) => (failure ? reject(failure) : resolve()));
      upload.write(UploadDatasetRequest.create({ part: { $case: 'chunk', value: Buffer.from('a') } }));
    }),
  );
  expect(error.code).toBe(status.ALREADY_EXISTS);
  expect(decodeError(error).info?.reason).toBe('DATASET_EXISTS');
});

test('a message over the limit is refused with RESOURCE_EXHAUSTED', async () => {
  const { tokenizer } = await startLoopback({
    maxReceiveBytes: 65_536,
    tokenizer: { tokenize: async () => ({ tokenIds: [], pieces: [] }) },
  });
  const send = (bytes: number) =>
    refusal(unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({ text: 'x'.repeat(bytes) })));
  const error = await send(70_000);
  expect(error.code).toBe(status.RESOURCE_EXHAUSTED);
  expect(error.details).toContain('65536');
  expect(decodeError(error).info?.reason).toBe('MESSAGE_TOO_LARGE');
  // Far over the limit it is not even read.
  expect((await send(200_000)).code).toBe(status.RESOURCE_EXHAUSTED);
});

test('a failure carries ErrorInfo, field violations, resource and retry delay', async () => {
  const { tokenizer } = await startLoopback({
    tokenizer: {
      tokenize: async () => {
        throw new LuthierError('DATASET_INVALID', 'zeile 7: Größe — “schlecht”', {
          violations: [{ field: 'line[7].messages[1].content', description: 'expected text', reason: 'EMPTY' }],
          resource: { type: 'dataset', name: 'datasets/a' },
          metadata: { lines: '7' },
        });
      },
      detokenize: async () => {
        throw new LuthierError('SERVER_BUSY', 'busy', { retryAfterMilliseconds: 2500 });
      },
    },
  });
  const error = await refusal(unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({})));
  expect(error.code).toBe(status.INVALID_ARGUMENT);
  expect(error.details).toBe('zeile 7: Größe — “schlecht”');
  const decoded = decodeError(error);
  expect(decoded.message).toBe(error.details);
  expect(decoded.info).toMatchObject({ reason: 'DATASET_INVALID', domain: 'luthier.v1', metadata: { lines: '7' } });
  expect(decoded.badRequest?.fieldViolations).toEqual([
    { field: 'line[7].messages[1].content', description: 'expected text', reason: 'EMPTY' },
  ]);
  expect(decoded.resource).toMatchObject({ resourceType: 'dataset', resourceName: 'datasets/a' });
  expect(decoded.retry).toBeNull();

  const busy = await refusal(
    unary(tokenizer, tokenizer.detokenize, { model: '', tokenIds: [], skipSpecialTokens: false }),
  );
  expect(decodeError(busy).retry?.retryDelay).toEqual({ seconds: 2, nanos: 500_000_000 });
});

test('a failure with very many and very long parts still fits into trailers', async () => {
  const { tokenizer } = await startLoopback({
    tokenizer: {
      tokenize: async () => {
        const violations = Array.from({ length: 500 }, (_, index) => ({
          field: `line[${index}]`,
          description: '语'.repeat(400),
          reason: 'X',
        }));
        throw new LuthierError('DATASET_INVALID', `${'é'.repeat(5000)}\ud800`, { violations });
      },
    },
  });
  const error = await refusal(unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({})));
  const decoded = decodeError(error);
  const shown = decoded.badRequest?.fieldViolations.length ?? 0;
  expect(shown).toBeGreaterThan(0);
  expect(decoded.info?.metadata.omitted_violations).toBe(String(500 - shown));
  const [details] = error.metadata.get('grpc-status-details-bin');
  const bytes = encodeURI(error.details).length + (details as Buffer).toString('base64').length;
  expect(bytes).toBeLessThan(8000);
});

test('an unknown exception tells nothing but a call id, which the log has with the cause', async () => {
  const { tokenizer, generation, records } = await startLoopback({
    tokenizer: {
      tokenize: () => {
        throw new TypeError('secret of the server');
      },
    },
    generation: {
      generate: async function* () {
        yield delta('one');
        throw new TypeError('secret of the stream');
      },
    },
  });
  for (const call of [
    () => unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({})),
    () => collect(generation.generate(GenerateRequest.create({}))),
  ]) {
    const error = await refusal(call());
    expect(error.code).toBe(status.INTERNAL);
    expect(JSON.stringify(error.metadata) + error.details).not.toContain('secret');
    const id = decodeError(error).info?.metadata.call_id;
    const record = records.at(-1);
    expect(record?.callId).toBe(id);
    expect(error.details).toContain(id);
    expect(record?.error).toBeInstanceOf(TypeError);
  }
});

test('a response that cannot be encoded is INTERNAL, not a hanging client', async () => {
  const { tokenizer } = await startLoopback({
    tokenizer: { tokenize: async () => ({ tokenIds: [-1], pieces: [] }) },
  });
  const error = await refusal(unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({})));
  expect(error.code).toBe(status.INTERNAL);
});

test('bytes that are no message are INVALID_ARGUMENT, in unary calls and in streams', async () => {
  const { tokenizer, dataset } = await startLoopback({
    dataset: {
      uploadDataset: async (requests) => {
        for await (const _ of requests);
        return { dataset: undefined, problems: [] };
      },
    },
    tokenizer: { tokenize: async () => ({ tokenIds: [], pieces: [] }) },
  });
  const broken = (): Buffer => Buffer.from([0x12, 0x7f, 0x01]);
  const once = await refusal(
    new Promise((resolve, reject) => {
      const path = '/luthier.v1.TokenizerService/Tokenize';
      tokenizer.makeUnaryRequest(
        path,
        broken,
        (bytes: Buffer) => bytes,
        {},
        (error, value) => (error ? reject(error) : resolve(value)),
      );
    }),
  );
  const streamed = await refusal(
    new Promise((resolve, reject) => {
      const path = '/luthier.v1.DatasetService/UploadDataset';
      const call = dataset.makeClientStreamRequest(
        path,
        broken,
        (bytes: Buffer) => bytes,
        (error, value) => (error ? reject(error) : resolve(value)),
      );
      call.write({});
    }),
  );
  for (const error of [once, streamed]) {
    expect(error.code).toBe(status.INVALID_ARGUMENT);
    expect(decodeError(error).info?.reason).toBe('INVALID_REQUEST');
  }
});

test('a method without a handler is UNIMPLEMENTED by name, unary and streaming', async () => {
  const { tokenizer, generation, dataset } = await startLoopback({});
  const errors = [
    await refusal(unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({}))),
    await refusal(collect(generation.generate(GenerateRequest.create({})))),
    await refusal(
      new Promise((resolve, reject) => {
        const upload = dataset.uploadDataset((error, value) => (error ? reject(error) : resolve(value)));
        upload.end();
      }),
    ),
  ];
  expect(errors.map((error) => error.code)).toEqual(Array(3).fill(status.UNIMPLEMENTED));
  expect(errors.map((error) => error.details.split(' ')[0])).toEqual([
    'luthier.v1.TokenizerService/Tokenize',
    'luthier.v1.GenerationService/Generate',
    'luthier.v1.DatasetService/UploadDataset',
  ]);
});
