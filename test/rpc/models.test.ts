/** Base models over real gRPC and by the command line, with an engine without a device: imported, shown, loaded, changed, deleted. */
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { run } from '../../clients/cli/src/program.ts';
import { capturedIo } from '../../clients/cli/src/testing/captured-io.ts';
import { LoadIn, LuthierClient } from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';

const LINES = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n';

async function start() {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-models-rpc-')));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const folder = join(root, 'files');
  mkdirSync(folder);
  writeFileSync(join(folder, 'config.json'), '{}');
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir: join(root, 'data'),
    threads: 1,
    models: { own: '/models/own' },
    modelRoots: [root],
    drainSeconds: 0,
  });
  let gate: Promise<void> | undefined;
  /** One more server on the same data folder; the one before must be closed. */
  const open = async () => {
    const engine = createFakeEngine({ beforeStep: () => gate });
    const server = await createServer(settings, { engine, logger: createLogger({ level: 'silent', format: 'json' }) });
    const { address } = await server.start();
    const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
    const close = async () => {
      client.close();
      await server.close();
    };
    onTestFinished(close);
    const luthier = async (...args: string[]) => {
      const io = capturedIo({ env: { LUTHIER_SERVER: address } });
      const code = await run(args, io);
      return { code, out: io.out(), err: io.err() };
    };
    return { client, luthier, close };
  };
  const hold = (until: Promise<void>) => {
    gate = until;
  };
  return { folder, open, hold };
}

test('an import is answered once, is there after a restart, and is forgotten when it is deleted', async () => {
  const { folder, open } = await start();
  const first = await open();
  const request = { requestId: 'r', path: folder, modelId: 'mine' };
  const model = await first.client.importModel(request);
  expect(model).toMatchObject({ name: 'models/mine', path: folder, changed: '', contentHash: 'f'.repeat(64) });
  expect(model.importTime).toBeInstanceOf(Date);
  expect(model.weightMemory).toHaveLength(5);
  expect(await first.client.importModel(request)).toEqual(model);
  await expect(first.client.importModel({ ...request, modelId: 'other' })).rejects.toMatchObject({
    reason: 'REQUEST_ID_REUSED',
  });
  await first.close();

  const { client } = await open();
  expect(await client.importModel(request)).toEqual(model);
  const { models } = await client.listModels();
  expect(models.map(({ name }) => name)).toEqual(['models/mine', 'models/own']);
  expect(models[0]).toEqual(model);
  expect(await client.deleteModel('models/mine', { timeoutMs: 5000 })).toEqual({ warnings: [] });
  expect((await client.listModels()).models.map(({ name }) => name)).toEqual(['models/own']);
  expect(existsSync(join(folder, 'config.json'))).toBe(true);
});

test('a list comes in pages, by name', async () => {
  const { folder, open } = await start();
  const { client } = await open();
  await client.importModel({ path: folder, modelId: 'b' });
  const first = await client.listModels({ pageSize: 1 });
  expect(first.models.map(({ name }) => name)).toEqual(['models/b']);
  const second = await client.listModels({ pageSize: 1, pageToken: first.nextPageToken });
  expect([second.models.map(({ name }) => name), second.nextPageToken]).toEqual([['models/own'], '']);
  await expect(client.listModels({ pageToken: 'eA' })).rejects.toMatchObject({ reason: 'INVALID_REQUEST' });
});

test('a model that a job trains from is neither unloaded nor deleted; its adapter outlives it', {
  timeout: 30_000,
}, async () => {
  const { folder, open, hold } = await start();
  const { client } = await open();
  const done = Promise.withResolvers<void>();
  hold(done.promise);
  const { name } = await client.getModel(folder);
  expect(name).toBe('models/files');
  const dataset = (await client.uploadDataset([LINES])).name;
  const job = await client.createTrainingJob({ spec: { model: folder, dataset, output: 'a' } });
  await expect.poll(async () => (await client.getModel(name)).users).toBe(1);
  for (const call of [client.unloadModel(name), client.deleteModel(name), client.deleteModel(folder)]) {
    await expect(call).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  }
  done.resolve();
  for await (const _ of client.watchTrainingJob(job.name));
  // A stored adapter's base is remembered by itself.
  expect((await client.getModel(name)).importTime).toBeInstanceOf(Date);
  expect((await client.unloadModel(name)).loaded).toBe(false);
  const { warnings } = await client.deleteModel(name);
  expect(warnings).toEqual([expect.stringMatching(/^adapters\/a has models\/files as base: import it again/)]);
  expect((await client.getAdapter('a')).baseModel).toBe(name);
});

test('a changed import is refused before a job exists, and says so wherever it is shown', async () => {
  const { folder, open } = await start();
  const { client, luthier } = await open();
  await client.importModel({ path: folder, modelId: 'mine' });
  const dataset = (await client.uploadDataset([LINES])).name;
  writeFileSync(join(folder, 'config.json'), '{"other": 1}');
  const refusal = { reason: 'MODEL_CHANGED', status: 'FAILED_PRECONDITION' };
  const spec = { model: 'models/mine', dataset };
  await expect(client.createTrainingJob({ spec })).rejects.toMatchObject(refusal);
  await expect(client.estimateTrainingJob(spec)).rejects.toMatchObject(refusal);
  await expect(client.loadModel('models/mine')).rejects.toMatchObject(refusal);
  expect((await client.listTrainingJobs()).jobs).toEqual([]);
  const change = /config\.json had 2 bytes and has 12; put the old files back, or import .* again/;
  expect((await client.getModel('models/mine')).changed).toMatch(change);
  expect((await luthier('models', 'list')).err).toMatch(change);
  expect((await luthier('models', 'get', 'mine')).err).toMatch(change);
  expect(await luthier('models', 'import', folder)).toMatchObject({ code: 0, err: '' });
  expect((await client.loadModel('models/mine', { loadIn: LoadIn.LOAD_IN_4BIT })).loaded).toBe(true);
});

test('the command line imports, shows, loads and deletes', async () => {
  const { folder, open } = await start();
  const { luthier } = await open();
  const imported = await luthier('models', 'import', folder, '--name', 'mine');
  expect(imported).toMatchObject({ code: 0, err: '' });
  expect(imported.out).toMatch(/^name +models\/mine$/m);
  expect(imported.out).toMatch(
    /^memory +stored 12\.8 KiB, 16bit 12\.8 KiB, 8bit 12\.8 KiB, 4bit 12\.8 KiB, 4bit-plain 12\.8 KiB$/m,
  );
  expect((await luthier('models', 'list')).out).toMatch(
    /^NAME +ARCHITECTURE +PARAMETERS +TYPE +CONTEXT +STORED +16BIT +8BIT +4BIT +4BIT-PLAIN +LOADED +PATH\nmodels\/mine +llama +3264 +f32 +512 /,
  );
  expect((await luthier('models', 'load', 'mine', '--load-in', '4bit')).out).toMatch(/^loaded +12\.8 KiB/m);
  expect(JSON.parse((await luthier('models', 'get', 'mine', '--json')).out)).toMatchObject({
    name: 'models/mine',
    weightMemory: [{ loadIn: 'LOAD_IN_STORED', weightBytes: '13056' }, {}, {}, {}, { loadIn: 'LOAD_IN_4BIT_PLAIN' }],
  });
  expect((await luthier('models', 'unload', 'mine')).out).toMatch(/^loaded +no$/m);
  const deleted = await luthier('models', 'delete', 'mine');
  expect(deleted).toMatchObject({ code: 0, out: 'deleted models/mine; its files stay where they are\n' });
  const refused = [
    [['import', folder, '--name', 'no/name'], 'model_id: expected at most 63 letters'],
    [['import', '/elsewhere'], 'PATH_NOT_ALLOWED'],
    [['delete', 'own'], "models/own is one of the server's own settings"],
    [['delete', 'none'], 'MODEL_NOT_FOUND'],
  ] as const;
  for (const [args, text] of refused) {
    const { code, out, err } = await luthier('models', ...args);
    expect(err).toContain(text);
    expect(out).toBe('');
    expect(code).toBeGreaterThan(10);
  }
});
