/** Adapters over real gRPC with an engine without a device: up, down, merged, and what is refused on the way. */
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { credentials } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { clientStream } from '../../clients/typescript/src/call.ts';
import {
  adapterWeightsFile,
  fileSha256,
  LuthierClient,
  MergeFormat,
  UploadAdapterHeader,
} from '../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../src/config/schema.ts';
import { createFakeEngine } from '../../src/engine/fake.ts';
import { writeFakeAdapter } from '../../src/engine/fake-adapter.ts';
import { AdapterServiceClient, AdapterServiceService } from '../../src/gen/luthier/v1/adapter_service.ts';
import { createLogger } from '../../src/logging/logger.ts';
import { createServer } from '../../src/server.ts';
import { ALL_LINEAR } from '../fixtures/all-linear.ts';

const MODEL = '/models/fake';

async function start() {
  const root = mkdtempSync(join(tmpdir(), 'luthier-adapters-rpc-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const exportRoot = join(root, 'exports');
  mkdirSync(exportRoot);
  const settings = serverConfigSchema.parse({
    port: 0,
    dataDir: join(root, 'data'),
    threads: 1,
    models: { fake: MODEL },
    exportRoots: [exportRoot],
    drainSeconds: 0,
    maxAdapterBytes: 2 ** 22,
  });
  const engine = createFakeEngine();
  const server = await createServer(settings, { engine, logger: createLogger({ level: 'silent', format: 'json' }) });
  const { address } = await server.start();
  const client = new LuthierClient({ address, retry: { maxAttempts: 0 } });
  const raw = new AdapterServiceClient(address, credentials.createInsecure());
  onTestFinished(async () => {
    client.close();
    raw.close();
    await server.close();
  });
  const model = await engine.readMetadata(MODEL);
  /** A PEFT folder of this machine. */
  const write = async (name: string, value = 1, baseModelHash = model.contentHash): Promise<string> => {
    const folder = join(root, name);
    mkdirSync(folder);
    const lora = { r: 8, loraAlpha: 8, loraDropout: 0, useRslora: false, seed: 0, ...ALL_LINEAR };
    const metadata = { baseModelName: 'fake', baseModelHash, templateId: 't', templateHash: 'h', template: '' };
    await writeFakeAdapter(folder, model, { ...lora, targetModules: ['q_proj', 'down_proj'] }, value, metadata);
    return folder;
  };
  const stored = () => readdirSync(join(root, 'data', 'adapters'));
  return { client, raw, root, exportRoot, write, stored };
}

const bytesOf = (folder: string): Record<string, string> =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'base64')]));

test('what goes up comes down, byte for byte', async () => {
  const { client, root, write } = await start();
  const folder = await write('mine');
  const { adapter, warnings } = await client.uploadAdapter(folder, { adapterId: 'mine' });
  expect(adapter).toMatchObject({ name: 'adapters/mine', baseModel: 'models/fake', trainingJob: '' });
  expect(warnings).toEqual([]);
  const out = join(root, 'deep', 'out');
  const header = await client.downloadAdapter('adapters/mine', out);
  expect(header.adapter).toEqual(adapter);
  expect(bytesOf(out)).toEqual(bytesOf(folder));
  expect(readdirSync(join(root, 'deep'))).toEqual(['out']);
});

test('an adapter that torch saved goes up, comes down and is exported under its own names', async () => {
  const { client, exportRoot, write } = await start();
  const folder = await write('old');
  renameSync(join(folder, 'adapter_model.safetensors'), join(folder, 'adapter_model.bin'));
  const { adapter } = await client.uploadAdapter(folder, { adapterId: 'old' });
  expect(adapter?.sha256).toBe(await fileSha256(await adapterWeightsFile(folder)));
  const out = await write('newer', 2);
  await client.downloadAdapter('adapters/old', out, { overwrite: true });
  expect(bytesOf(out)).toEqual(bytesOf(folder));
  const { path } = await client.exportAdapter({ name: 'adapters/old', path: join(exportRoot, 'old') });
  expect(bytesOf(path)).toEqual(bytesOf(folder));
});

test('nothing that is there is replaced unless that is asked for', async () => {
  const { client, root, write } = await start();
  const [first, second] = [await write('first', 1), await write('second', 2)];
  await client.uploadAdapter(first, { adapterId: 'a' });
  await expect(client.uploadAdapter(second, { adapterId: 'a' })).rejects.toMatchObject({ reason: 'ADAPTER_EXISTS' });
  await client.uploadAdapter(second, { adapterId: 'a', overwrite: true });
  const out = join(root, 'out');
  mkdirSync(out);
  writeFileSync(join(out, 'notes.txt'), 'mine');
  await expect(client.downloadAdapter('adapters/a', out)).rejects.toMatchObject({ status: 'ALREADY_EXISTS' });
  expect(readdirSync(out)).toEqual(['notes.txt']);
  await client.downloadAdapter('adapters/a', out, { overwrite: true });
  expect(bytesOf(out)).toEqual({ ...bytesOf(second), 'notes.txt': Buffer.from('mine').toString('base64') });
});

test('a file where a folder should be is said', async () => {
  const { client, root, write } = await start();
  await client.uploadAdapter(await write('mine'), { adapterId: 'mine' });
  writeFileSync(join(root, 'file'), 'mine');
  for (const overwrite of [false, true]) {
    for (const out of [join(root, 'file'), join(root, 'file', 'deep')]) {
      await expect(client.downloadAdapter('adapters/mine', out, { overwrite })).rejects.toMatchObject({
        status: 'ALREADY_EXISTS',
        message: `${out} cannot be a folder: a file is there, or in its way; choose another one`,
      });
    }
  }
  expect(readFileSync(join(root, 'file'), 'utf8')).toBe('mine');
  expect(readdirSync(root).filter((name) => name.startsWith('.'))).toEqual([]);
});

test('the same request is answered once', async () => {
  const { client, write, stored } = await start();
  const folder = await write('mine');
  const first = await client.uploadAdapter(folder, { requestId: 'r' });
  expect(await client.uploadAdapter(folder, { requestId: 'r' })).toEqual(first);
  expect(stored()).toHaveLength(1);
});

test('another base is refused with both hashes, or accepted with a warning and trained from', async () => {
  const { client, write } = await start();
  const folder = await write('other', 1, 'dead');
  const options = { adapterId: 'other', baseModel: 'models/fake' };
  await expect(client.uploadAdapter(folder, options)).rejects.toMatchObject({
    reason: 'ADAPTER_MISMATCH',
    metadata: { expected: 'dead' },
  });
  const { adapter, warnings } = await client.uploadAdapter(folder, { ...options, allowOtherBase: true });
  expect(warnings).toEqual([expect.stringContaining('dead')]);
  const dataset = await client.uploadDataset([
    '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n',
  ]);
  const spec = { model: 'models/fake', dataset: dataset.name, initAdapter: adapter?.name ?? '' };
  expect((await client.estimateTrainingJob(spec)).steps).toBeGreaterThan(0);
});

interface Sent {
  readonly header?: Partial<UploadAdapterHeader>;
  readonly chunks?: readonly Buffer[];
}

test('a stream that is not what it says leaves nothing', async () => {
  const { raw, write, stored } = await start();
  const folder = await write('mine');
  const names = ['adapter_config.json', 'adapter_model.safetensors'];
  const contents = names.map((name) => readFileSync(join(folder, name)));
  const files = contents.map((bytes, index) => ({
    name: names[index] ?? '',
    sizeBytes: bytes.length,
    sha256: createHash('sha256').update(bytes).digest('hex'),
  }));
  const send = ({ header = {}, chunks = contents }: Sent) => {
    async function* messages() {
      yield { part: { $case: 'header' as const, value: UploadAdapterHeader.fromPartial({ files, ...header }) } };
      for (const value of chunks) yield { part: { $case: 'chunk' as const, value } };
    }
    return clientStream(raw, AdapterServiceService.uploadAdapter, messages(), {});
  };
  const [config, weights] = [contents[0] ?? Buffer.alloc(0), contents[1] ?? Buffer.alloc(0)];
  const flipped = Buffer.from(weights);
  flipped[flipped.length - 1] = (flipped.at(-1) ?? 0) ^ 1;
  const [one, two] = files;
  const cases: readonly (readonly [Sent, string])[] = [
    [{ chunks: [config, flipped] }, 'CHECKSUM_MISMATCH'],
    [{ chunks: [config, weights.subarray(0, 100)] }, 'UPLOAD_INCOMPLETE'],
    [{ chunks: [Buffer.concat([config, weights])] }, 'CHECKSUM_MISMATCH'],
    [{ chunks: [config, weights, config] }, 'CHECKSUM_MISMATCH'],
    [{ chunks: [config, Buffer.alloc(2 ** 20 + 1)] }, 'INVALID_REQUEST'],
    [{ header: { files: [{ ...one, name: '../../etc/passwd' }, two] as never } }, 'INVALID_REQUEST'],
    [{ header: { files: [one, one] as never } }, 'INVALID_REQUEST'],
    [{ header: { files: [one] as never } }, 'INVALID_REQUEST'],
    [{ header: { files: [two, { ...two, name: 'adapter_model.bin' }] as never } }, 'INVALID_REQUEST'],
    [{ header: { files: [one, { ...two, sizeBytes: 2 ** 23 }] as never } }, 'MESSAGE_TOO_LARGE'],
    [{ header: { files: [one, { ...two, sha256: 'x' }] as never } }, 'INVALID_REQUEST'],
    [{ header: { adapterId: '../a' } }, 'INVALID_REQUEST'],
    [{ header: { baseModel: 'models/none' } }, 'MODEL_NOT_FOUND'],
  ];
  for (const [sent, reason] of cases) {
    await expect(send(sent), reason).rejects.toMatchObject({ reason });
    expect(stored()).toEqual([]);
  }
  // The very same, as it should be.
  expect((await send({})).adapter?.baseModel).toBe('models/fake');
});

test('base and adapter become one folder under an export root, whole or not at all', async () => {
  const { client, root, exportRoot, write } = await start();
  await client.uploadAdapter(await write('mine'), { adapterId: 'mine' });
  const merge = (path: string) =>
    client.mergeAdapter({ name: 'adapters/mine', path, format: MergeFormat.MERGE_FORMAT_SAFETENSORS_F16 });
  const { path, sizeBytes } = await merge(join(exportRoot, 'merged'));
  const text = readFileSync(join(path, 'config.json'), 'utf8');
  expect([text.length, JSON.parse(text).format]).toEqual([sizeBytes, 'safetensors_f16']);
  await expect(merge(path)).rejects.toMatchObject({ reason: 'EXPORT_TARGET_NOT_EMPTY' });
  await expect(merge(exportRoot)).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
  await expect(merge(join(root, 'elsewhere'))).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
  expect(existsSync(join(root, 'elsewhere'))).toBe(false);
  expect(readdirSync(exportRoot)).toEqual(['merged']);
});
