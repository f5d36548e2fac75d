import { createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import { type FileDescriptorProto, FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import {
  HealthCheckRequest,
  type HealthCheckResponse,
  type HealthListRequest,
  type HealthListResponse,
  HealthCheckResponse_ServingStatus as Serving,
} from '../../src/gen/grpc/health/v1/health.ts';
import { ServerReflectionRequest, type ServerReflectionResponse } from '../../src/gen/grpc/reflection/v1/reflection.ts';
import { GenerateRequest, GenerateResponse } from '../../src/gen/luthier/v1/generation_service.ts';
import { TokenizeRequest } from '../../src/gen/luthier/v1/tokenizer_service.ts';
import { decodeError, refusal, startLoopback, unary, until } from './loopback.ts';

const check = (service: string) => HealthCheckRequest.create({ service });
const delta = () => GenerateResponse.create({ event: { $case: 'delta', value: { text: '.' } } });

async function drainStream(stream: AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  for await (const _ of stream) count += 1;
  return count;
}

test('health: the server and every service are SERVING, another name is NOT_FOUND', async () => {
  const { health } = await startLoopback({});
  for (const service of ['', 'luthier.v1.GenerationService']) {
    expect(await unary(health, health.check, check(service))).toEqual({ status: Serving.SERVING });
  }
  const error = await refusal(unary(health, health.check, check('luthier.v1.Nothing')));
  expect(error.code).toBe(status.NOT_FOUND);
  const { statuses } = await unary<HealthListRequest, HealthListResponse>(health, health.list, {});
  expect(Object.keys(statuses)).toContain('luthier.v1.TokenizerService');
});

test('health: a watcher is told of the drain; unknown services stay open as SERVICE_UNKNOWN', async () => {
  const { health, server } = await startLoopback({});
  const seen: HealthCheckResponse[] = [];
  const watch = health.watch(check(''));
  watch.on('data', (response) => seen.push(response)).on('error', () => undefined);
  const unknown = health.watch(check('nothing'));
  const first = await new Promise<HealthCheckResponse>((resolve) => unknown.once('data', resolve));
  unknown.on('error', () => undefined);
  expect(first.status).toBe(Serving.SERVICE_UNKNOWN);
  await until(() => seen.length === 1);
  void server.drain(50);
  await until(() => seen.length === 2);
  expect(seen.map((response) => response.status)).toEqual([Serving.SERVING, Serving.NOT_SERVING]);
});

test('draining: streams end with a retryable UNAVAILABLE, new calls are refused, unary calls finish', async () => {
  const release = Promise.withResolvers<void>();
  const { generation, tokenizer, health, server } = await startLoopback({
    generation: {
      generate: async function* (_request, { signal }) {
        yield delta();
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      },
    },
    tokenizer: {
      tokenize: async () => {
        await release.promise;
        return { tokenIds: [1], pieces: [] };
      },
    },
  });
  const stream = generation.generate(GenerateRequest.create({}));
  await new Promise((resolve) => stream.once('data', resolve));
  const streamEnd = refusal(new Promise((_, reject) => stream.once('error', reject)));
  const pending = unary(tokenizer, tokenizer.tokenize, TokenizeRequest.create({}));
  await unary(health, health.check, check(''));
  const drained = server.drain(5000);

  const ended = await streamEnd;
  expect(ended.code).toBe(status.UNAVAILABLE);
  expect(decodeError(ended)).toMatchObject({ info: { reason: 'DRAINING' }, retry: { retryDelay: { seconds: 1 } } });
  const refused = await refusal(
    unary(tokenizer, tokenizer.detokenize, { model: '', tokenIds: [], skipSpecialTokens: false }),
  );
  expect(decodeError(refused).info?.reason).toBe('DRAINING');
  expect(await unary(health, health.check, check(''))).toEqual({ status: Serving.NOT_SERVING });
  release.resolve();
  expect(await pending).toEqual({ tokenIds: [1], pieces: [] });
  await drained;
});

test('draining: a stream that may finish does; after the time given it ends, too', async () => {
  const { generation, server } = await startLoopback({
    finishOnDrain: ['generate'],
    generation: {
      generate: async function* ({ model }) {
        for (let index = 0; model === 'endless' || index < 5; index++) {
          yield delta();
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      },
    },
  });
  const short = drainStream(generation.generate(GenerateRequest.create({ model: 'short' })));
  const endless = generation.generate(GenerateRequest.create({ model: 'endless' }));
  const end = refusal(drainStream(endless));
  await new Promise((resolve) => setTimeout(resolve, 50));
  await server.drain(300);
  expect(await short).toBe(5);
  expect((await end).code).toBe(status.UNAVAILABLE);
});

async function reflect(
  reflection: Awaited<ReturnType<typeof startLoopback>>['reflection'],
  request: NonNullable<ServerReflectionRequest['messageRequest']>,
): Promise<NonNullable<ServerReflectionResponse['messageResponse']>> {
  const call = reflection.serverReflectionInfo();
  call.write(ServerReflectionRequest.create({ messageRequest: request }));
  const response = await new Promise<ServerReflectionResponse>((resolve, reject) => {
    call.once('data', resolve).once('error', reject);
  });
  call.end();
  if (!response.messageResponse) throw new Error('the reflection answer is empty');
  return response.messageResponse;
}

test('reflection lists every service of the contract', async () => {
  const { reflection } = await startLoopback({});
  const answer = await reflect(reflection, { $case: 'listServices', value: '' });
  if (answer.$case !== 'listServicesResponse') throw new Error(answer.$case);
  expect(answer.value.service.map((service) => service.name)).toEqual([
    'grpc.health.v1.Health',
    'grpc.reflection.v1.ServerReflection',
    'luthier.v1.AdapterService',
    'luthier.v1.DatasetService',
    'luthier.v1.GenerationService',
    'luthier.v1.ModelService',
    'luthier.v1.TokenizerService',
    'luthier.v1.TrainingService',
  ]);
});

test.each([
  ['luthier.v1.TrainingService', 'luthier/v1/training_service.proto'],
  ['luthier.v1.TrainingService.Train', 'luthier/v1/training_service.proto'],
  ['luthier.v1.Sampling.top_k', 'luthier/v1/generation_service.proto'],
  ['luthier.v1.Prompt.input', 'luthier/v1/generation_service.proto'],
  ['luthier.v1.FINISH_REASON_EOS', 'luthier/v1/generation_service.proto'],
  ['google.rpc.BadRequest.FieldViolation', 'google/rpc/error_details.proto'],
])('reflection: %s is found with everything its file imports', async (symbol, file) => {
  const { reflection } = await startLoopback({});
  const answer = await reflect(reflection, { $case: 'fileContainingSymbol', value: symbol });
  if (answer.$case !== 'fileDescriptorResponse') throw new Error(answer.$case);
  const protos = answer.value.fileDescriptorProto.map((bytes) => fromBinary(FileDescriptorProtoSchema, bytes));
  expect(protos[0]?.name).toBe(file);
  // Throws where an import is missing.
  const sorted: FileDescriptorProto[] = [];
  const visit = (name: string): void => {
    const proto = protos.find((one) => one.name === name);
    if (!proto || sorted.includes(proto)) return;
    proto.dependency.forEach(visit);
    sorted.push(proto);
  };
  visit(file);
  createFileRegistry({ $typeName: 'google.protobuf.FileDescriptorSet', file: sorted });
  expect(new Set(protos.map((proto) => proto.name)).size).toBe(protos.length);
});

test('reflection: what does not exist is an error in the answer, and the stream goes on', async () => {
  const { reflection } = await startLoopback({});
  const asked: NonNullable<ServerReflectionRequest['messageRequest']>[] = [
    { $case: 'fileContainingSymbol', value: 'luthier.v1.Nothing' },
    { $case: 'fileByFilename', value: 'nothing.proto' },
    { $case: 'allExtensionNumbersOfType', value: 'luthier.v1.Nothing' },
    { $case: 'fileByFilename', value: 'google/protobuf/timestamp.proto' },
  ];
  const call = reflection.serverReflectionInfo();
  for (const messageRequest of asked) call.write(ServerReflectionRequest.create({ messageRequest }));
  call.end();
  const cases: (string | undefined)[] = [];
  for await (const response of call as AsyncIterable<ServerReflectionResponse>)
    cases.push(response.messageResponse?.$case);
  expect(cases).toEqual(['errorResponse', 'errorResponse', 'errorResponse', 'fileDescriptorResponse']);
});
