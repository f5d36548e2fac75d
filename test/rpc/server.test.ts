/** The whole server over an engine of the test: every service, foreign clients, the end. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { credentials, status } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { LoadIn } from '../../src/gen/luthier/v1/common.ts';
import {
  GenerateRequest,
  type GenerateResponse,
  GenerationServiceClient,
} from '../../src/gen/luthier/v1/generation_service.ts';
import {
  GetServerInfoRequest,
  type GetServerInfoResponse,
  ListModelsRequest,
  type ListModelsResponse,
  ModelServiceClient,
} from '../../src/gen/luthier/v1/model_service.ts';
import {
  TokenizeRequest,
  type TokenizeResponse,
  TokenizerServiceClient,
} from '../../src/gen/luthier/v1/tokenizer_service.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer, type LuthierServer } from '../../src/server.ts';
import { type ScriptedEngineOptions, scriptedEngine } from '../fixtures/scripted-engine.ts';
import { tinyTokenizer } from '../fixtures/tokenizers.ts';
import { decodeError, refusal, unary } from './loopback.ts';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../../', import.meta.url));

type LogLine = Record<string, unknown> & { readonly msg: string };

async function startServer(options: ScriptedEngineOptions & { readonly settings?: Record<string, unknown> } = {}) {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-server-'));
  const lines: LogLine[] = [];
  const logger = createLogger(
    { level: 'info', format: 'json' },
    { write: (line) => void lines.push(JSON.parse(line) as LogLine) },
  );
  const models = { tiny: '/models/tiny', zebra: '/models/zebra' };
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir,
    threads: 1,
    models,
    drainSeconds: 1,
    ...options.settings,
  });
  const engine = scriptedEngine(options);
  const server: LuthierServer = await createServer(settings, { engine, logger });
  onTestFinished(async () => {
    await server.close();
    rmSync(dataDir, { recursive: true, force: true });
  });
  const { address } = await server.start();
  const insecure = credentials.createInsecure();
  const model = new ModelServiceClient(address, insecure);
  const tokenizer = new TokenizerServiceClient(address, insecure);
  const generation = new GenerationServiceClient(address, insecure);
  onTestFinished(() => {
    for (const client of [model, tokenizer, generation]) client.close();
  });
  return { server, engine, lines, address, model, tokenizer, generation };
}

test('models page by page, server info, load and unload', async () => {
  const { model, lines } = await startServer();
  const list = (request: Partial<ListModelsRequest>) =>
    unary<ListModelsRequest, ListModelsResponse>(model, model.listModels, ListModelsRequest.create(request));
  const first = await list({ pageSize: 1 });
  const second = await list({ pageSize: 1, pageToken: first.nextPageToken });
  expect([...first.models, ...second.models].map(({ name }) => name)).toEqual(['models/tiny', 'models/zebra']);
  expect(second.nextPageToken).toBe('');
  expect(first.models[0]).toMatchObject({
    hasChatTemplate: true,
    loaded: false,
    vocabSize: 280,
    linearModules: ['q_proj', 'v_proj'],
  });
  const broken = await refusal(list({ pageToken: 'x' }));
  expect(decodeError(broken).badRequest?.fieldViolations[0]?.field).toBe('page_token');

  const load = (loadIn: LoadIn) => unary(model, model.loadModel, { name: 'tiny', requestId: '', loadIn });
  expect(await load(LoadIn.LOAD_IN_UNSPECIFIED)).toMatchObject({
    model: { loaded: true, loadedBytes: 4096, users: 0, storageType: 'f32' },
  });
  expect(await load(LoadIn.LOAD_IN_8BIT)).toMatchObject({
    model: {
      storageType: 'int8',
      loadedBytes: 2 * 4096,
      loadedWeights: [
        { loadIn: LoadIn.LOAD_IN_STORED, storageType: 'f32', loadedBytes: 4096, users: 0 },
        { loadIn: LoadIn.LOAD_IN_8BIT, storageType: 'int8', loadedBytes: 4096, users: 0 },
      ],
    },
  });
  const wrong = decodeError(await refusal(load(9 as LoadIn)));
  expect(wrong.badRequest?.fieldViolations[0]).toMatchObject({ field: 'load_in' });
  expect(wrong.badRequest?.fieldViolations[0]?.description).toMatch(/LOAD_IN_4BIT.*found 9/);
  const unloaded = await unary(model, model.unloadModel, { name: 'tiny', requestId: '' });
  expect(unloaded).toMatchObject({ model: { loaded: false, loadedBytes: 0, loadedWeights: [], storageType: 'f32' } });

  const info = await unary<GetServerInfoRequest, GetServerInfoResponse>(
    model,
    model.getServerInfo,
    GetServerInfoRequest.create({}),
  );
  expect(info).toMatchObject({ device: 'cpu', deviceName: 'scripted', activeGenerations: 0 });
  expect(info.templates).toContain('chat-template');
  const gpu = { index: 0, name: 'scripted GPU', computeCapability: '9.0', totalMemoryBytes: 2 ** 36, problem: '' };
  expect(info).toMatchObject({ deviceReason: 'scripted', gpus: [gpu] });
  const logged = lines.find(({ msg }) => msg === 'device');
  expect(logged).toMatchObject({ device: 'cpu', reason: 'scripted', gpus: [{ name: 'scripted GPU' }] });
});

test('tokenize, detokenize, render', async () => {
  const { tokenizer } = await startServer();
  const request = TokenizeRequest.create({ model: 'tiny', text: '<|im_end|> 🙂' });
  const plain = await unary<TokenizeRequest, TokenizeResponse>(tokenizer, tokenizer.tokenize, request);
  const special = await unary<TokenizeRequest, TokenizeResponse>(tokenizer, tokenizer.tokenize, {
    ...request,
    parseSpecial: true,
  });
  expect(plain.tokenIds).not.toContain(2);
  expect(special.tokenIds).toContain(2);
  expect(plain.pieces).toHaveLength(plain.tokenIds.length);
  const back = { model: 'tiny', tokenIds: special.tokenIds, skipSpecialTokens: false };
  expect(await unary(tokenizer, tokenizer.detokenize, back)).toEqual({ text: '<|im_end|> 🙂' });
  const wrong = await refusal(unary(tokenizer, tokenizer.detokenize, { ...back, tokenIds: [1, 280] }));
  expect(decodeError(wrong).badRequest?.fieldViolations[0]?.field).toBe('token_ids[1]');
  const render = {
    model: 'tiny',
    messages: [{ role: 'user', content: 'hi', toolCalls: [] }],
    template: '',
    addGenerationPrompt: false,
    tools: [] as string[],
  };
  const rendered = await unary<typeof render, { pieces: string[] }>(tokenizer, tokenizer.renderPrompt, render);
  expect(rendered.pieces.join('')).toMatch(/<\|im_start\|>user\nhi<\|im_end\|>\n$/);
  const weighted = { ...render, messages: [{ role: 'user', content: 'hi', weight: 1, toolCalls: [] }] };
  const refused = await refusal(unary(tokenizer, tokenizer.renderPrompt, weighted));
  expect(decodeError(refused).badRequest?.fieldViolations[0]?.field).toBe('messages[0]');
  const call = { id: '', name: 'f', arguments: '[1]' };
  const called = { ...render, messages: [{ role: 'assistant', content: '', toolCalls: [call] }], tools: ['{}'] };
  const unread = await refusal(unary(tokenizer, tokenizer.renderPrompt, called));
  const fields = decodeError(unread).badRequest?.fieldViolations.map(({ field }) => field);
  expect(fields).toEqual(['messages[0].tool_calls[0].arguments', 'tools[0]']);
  const tool = '{"type": "function", "function": {"name": "f"}}';
  const placeless = await refusal(unary(tokenizer, tokenizer.renderPrompt, { ...render, tools: [tool] }));
  expect(placeless.details).toContain('has no place for tools');
});

test('cancelling Generate stops the engine; every call leaves one line in the log', async () => {
  const ids = tinyTokenizer().encode('hello');
  const { generation, engine, lines } = await startServer({ script: [{ tokenIds: ids }, 'wait'] });
  const request = GenerateRequest.create({ model: 'tiny', prompt: { input: { $case: 'text', value: 'x' } } });
  const call = generation.generate(request);
  call.on('error', () => undefined);
  await new Promise<void>((resolve) => {
    call.on('data', ({ event }: GenerateResponse) => event?.$case === 'delta' && resolve());
  });
  call.cancel();
  await expect.poll(() => engine.generations[0]?.cancelled).toBe(true);
  await expect.poll(() => lines.filter(({ msg }) => msg === 'call')).toHaveLength(1);
  expect(lines.find(({ msg }) => msg === 'call')).toMatchObject({
    level: 'info',
    method: 'luthier.v1.GenerationService/Generate',
    status: 'CANCELLED',
    peer: expect.stringMatching(/^127\.0\.0\.1:/),
    ms: expect.any(Number),
  });
});

test('the server is SERVING when it says that it listens; a drain lets a generation finish', async () => {
  const ids = tinyTokenizer().encode('hello');
  const { generation, lines, server, address } = await startServer({ script: [{ tokenIds: ids }, 'wait'] });
  expect(lines.find(({ msg }) => msg === 'listening')).toMatchObject({ address });
  const request = GenerateRequest.create({ model: 'tiny', prompt: { input: { $case: 'text', value: 'x' } } });
  const call = generation.generate(request);
  const ended = refusal(new Promise((_, reject) => call.on('data', () => undefined).on('error', reject)));
  await new Promise((resolve) => call.once('data', resolve));
  const started = performance.now();
  await server.drain('test');
  // It waits for the generation, but no longer than it was told to.
  expect(performance.now() - started).toBeGreaterThan(900);
  const error = await ended;
  expect(error.code).toBe(status.UNAVAILABLE);
  expect(decodeError(error).info?.reason).toBe('DRAINING');
});

test('a port that is taken is said so', async () => {
  const other = createTcpServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => other.once('listening', resolve));
  onTestFinished(() => void other.close());
  const { port } = other.address() as { port: number };
  await expect(startServer({ settings: { port } })).rejects.toThrow(
    `127.0.0.1:${port} is taken by another program; stop it or choose another port with --port`,
  );
});

test('buf curl calls the server by reflection alone: unary, streaming, errors, methods that are not built', async () => {
  const ids = tinyTokenizer().encode('hello');
  const { address } = await startServer({ script: [{ tokenIds: ids }, { finishReason: 'eos', eosTokenId: 2 }] });
  const curl = async (method: string, data: object): Promise<string> => {
    const flags = ['curl', '--http2-prior-knowledge', '--protocol', 'grpc', '--data', JSON.stringify(data)];
    const { stdout } = await run(join(root, 'node_modules/.bin/buf'), [...flags, `http://${address}/${method}`], {
      cwd: tmpdir(),
    });
    return stdout;
  };
  const failure = async (method: string, data: object) => {
    const { stderr } = (await refusal(curl(method, data))) as unknown as { stderr: string };
    return JSON.parse(stderr.slice(stderr.indexOf('{'))) as {
      code: string;
      message: string;
      details?: { type: string }[];
    };
  };
  const listed = JSON.parse(await curl('luthier.v1.ModelService/ListModels', {})) as { models: { name: string }[] };
  expect(listed.models.map(({ name }) => name)).toEqual(['models/tiny', 'models/zebra']);
  const generated = await curl('luthier.v1.GenerationService/Generate', {
    model: 'models/tiny',
    prompt: { messages: { messages: [{ role: 'user', content: 'hi' }] } },
  });
  expect(generated).toContain('"text": "hello"');
  expect(generated).toContain('FINISH_REASON_EOS');
  const unknown = await failure('luthier.v1.ModelService/GetModel', { name: 'nothing' });
  expect(unknown.code).toBe('not_found');
  expect(unknown.details?.map(({ type }) => type)).toContain('google.rpc.ErrorInfo');
  const later = await failure('luthier.v1.AdapterService/LoadAdapter', {});
  expect(later).toMatchObject({
    code: 'unimplemented',
    message: 'luthier.v1.AdapterService/LoadAdapter is not built yet',
  });
}, 20_000);
