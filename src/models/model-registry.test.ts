import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { type ScriptedEngineOptions, scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { tinyMetadata } from '../../test/fixtures/tokenizers.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { createModelRegistry } from './create-model-registry.ts';

let root = '';

beforeAll(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-models-')));
  mkdirSync(join(root, 'a'));
  mkdirSync(join(root, 'b'));
  for (const path of ['a/My Model.gguf', 'b/My Model.gguf']) writeFileSync(join(root, path), '');
  symlinkSync(join(root, 'a', 'My Model.gguf'), join(root, 'link.gguf'));
});

afterAll(() => rmSync(root, { recursive: true, force: true }));

function setUp(options: ScriptedEngineOptions & { readonly models?: Record<string, string> } = {}) {
  const engine = scriptedEngine(options);
  const logger = { warn: vi.fn(), info: vi.fn() };
  const registry = createModelRegistry({ engine, models: options.models ?? {}, roots: [root], logger });
  return { engine, logger, registry };
}

test('configured models are listed by name once they were read; one that cannot be read is logged and reported when asked for', async () => {
  const { registry, logger } = setUp({ models: { zebra: '/z', ant: '/a', lost: '/lost' }, missing: ['/lost'] });
  await registry.ready();
  expect(registry.list().map((model) => model.name)).toEqual(['models/ant', 'models/zebra']);
  expect(logger.warn).toHaveBeenCalledTimes(1);
  await expect(registry.get('models/lost')).rejects.toMatchObject({
    reason: 'MODEL_NOT_FOUND',
    message: 'there is no model at /lost',
  });
});

test('a model is found by resource name, by id and by path; an unknown one names those that exist', async () => {
  const path = join(root, 'a', 'My Model.gguf');
  const { registry, engine } = setUp({ models: { tiny: '/tiny' } });
  expect((await registry.get('models/tiny')).name).toBe('models/tiny');
  expect((await registry.get('tiny')).name).toBe('models/tiny');
  // The path of a registered model is no secret, whatever the roots are.
  expect((await registry.get('/tiny')).name).toBe('models/tiny');
  expect((await registry.get(path)).name).toBe('models/My-Model');
  expect((await registry.get(join(root, 'link.gguf'))).name).toBe('models/My-Model');
  expect((await registry.get(join(root, 'b', 'My Model.gguf'))).name).toBe('models/My-Model-2');
  expect(engine.reads.filter((read) => read === path)).toHaveLength(1);
  await expect(registry.get('other')).rejects.toThrow(/models\/My-Model, models\/My-Model-2, models\/tiny/);
  await expect(registry.get('/etc/passwd')).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
});

test('one file of a Hugging Face folder is refused with the folder to name, also where a link leads to another name', async () => {
  const folder = join(root, 'folder');
  mkdirSync(folder);
  for (const name of ['config.json', 'model.safetensors', 'pytorch_model-00001-of-00002.bin']) {
    writeFileSync(join(folder, name), '');
  }
  symlinkSync(join(root, 'a', 'My Model.gguf'), join(folder, 'linked.safetensors'));
  const configured = join(folder, 'config.json');
  const { registry, engine } = setUp({ models: { odd: configured } });
  const refusal = { reason: 'MODEL_NOT_FOUND', message: expect.stringContaining(`; name the folder: ${folder}`) };
  for (const name of ['model.safetensors', 'pytorch_model-00001-of-00002.bin', 'linked.safetensors']) {
    await expect(registry.get(join(folder, name))).rejects.toMatchObject(refusal);
    await expect(registry.import(join(folder, name), '')).rejects.toMatchObject(refusal);
  }
  await expect(registry.get('odd')).rejects.toMatchObject(refusal);
  expect(engine.reads).toEqual([]);
  // A folder may have such a name, and what is not there is told as that.
  mkdirSync(join(root, 'named.json'));
  expect((await registry.get(join(root, 'named.json'))).name).toBe('models/named.json');
  const { registry: without } = setUp({ missing: [join(folder, 'none.json')] });
  await expect(without.get(join(folder, 'none.json'))).rejects.toThrow('there is no model at');
});

test('calls at once register and load once', async () => {
  const { registry, engine } = setUp();
  const path = join(root, 'a', 'My Model.gguf');
  const leases = await Promise.all([1, 2, 3].map(() => registry.acquire(path)));
  expect(engine.reads).toEqual([path]);
  expect(engine.loads).toEqual([path]);
  expect(new Set(leases.map((lease) => lease.model)).size).toBe(1);
  expect(await registry.get(path)).toMatchObject({
    loaded: [{ storageType: 'f32', loadedBytes: 4096, users: 3 }],
    users: 3,
  });
});

test('a model in use stays; releasing twice counts once; unloading frees and is idempotent', async () => {
  const { registry, engine } = setUp({ models: { tiny: '/tiny' } });
  const [first, second] = [await registry.acquire('tiny'), await registry.acquire('tiny')];
  first.release();
  first.release();
  await expect(registry.unload('tiny')).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  second.release();
  expect(await registry.unload('tiny')).toMatchObject({ loaded: [], users: 0 });
  await registry.unload('tiny');
  expect(engine.closedModels).toBe(1);
  (await registry.acquire('tiny')).release();
  expect(engine.loads).toHaveLength(2);
});

test('each form of the weights is loaded once, for itself, and freed with the others', async () => {
  const { registry, engine } = setUp({ models: { tiny: '/tiny' } });
  const { LOAD_IN_UNSPECIFIED, LOAD_IN_STORED, LOAD_IN_16BIT, LOAD_IN_8BIT, LOAD_IN_4BIT, LOAD_IN_4BIT_PLAIN } = LoadIn;
  const quantized = [LOAD_IN_8BIT, LOAD_IN_4BIT, LOAD_IN_4BIT, LOAD_IN_4BIT_PLAIN];
  const forms = [LOAD_IN_UNSPECIFIED, LOAD_IN_STORED, LOAD_IN_16BIT, ...quantized];
  const leases = await Promise.all(forms.map((form) => registry.acquire('tiny', form)));
  // Loads start in any order: each looks at the files first.
  expect([...engine.storages].sort()).toEqual(['bf16', 'int8', 'nf4', 'nf4_double_quant', 'stored']);
  const models = leases.map(({ model }) => model);
  expect(models[0]).toBe(models[1]);
  expect(models[4]).toBe(models[5]);
  expect(new Set(models).size).toBe(5);
  const { loaded, users } = await registry.get('tiny');
  expect(users).toBe(7);
  expect(loaded.map((form) => [form.loadIn, form.users])).toEqual([
    [LOAD_IN_STORED, 2],
    [LOAD_IN_16BIT, 1],
    [LOAD_IN_8BIT, 1],
    [LOAD_IN_4BIT, 2],
    [LOAD_IN_4BIT_PLAIN, 1],
  ]);
  for (const lease of leases.slice(1)) lease.release();
  await expect(registry.unload('tiny')).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  leases[0]?.release();
  expect(await registry.unload('tiny')).toMatchObject({ loaded: [], users: 0 });
  expect(engine.closedModels).toBe(5);
});

test('16 bits of a model in f16 stay f16', async () => {
  const { registry, engine } = setUp({ models: { tiny: '/tiny' }, metadata: { storageType: 'f16' } });
  (await registry.acquire('tiny', LoadIn.LOAD_IN_16BIT)).release();
  expect(engine.storages).toEqual(['f16']);
});

test('where the files were replaced, forms of the old ones are freed when their last user lets go', async () => {
  const hash = { contentHash: 'old' };
  const { registry, engine } = setUp({ models: { tiny: '/tiny' }, metadata: hash });
  const used = await registry.acquire('tiny');
  (await registry.acquire('tiny', LoadIn.LOAD_IN_8BIT)).release();
  hash.contentHash = 'new';
  const fresh = await registry.acquire('tiny', LoadIn.LOAD_IN_4BIT);
  expect(engine.closedModels).toBe(1);
  expect((await registry.get('tiny')).users).toBe(2);
  const again = await registry.acquire('tiny');
  expect(again.model).not.toBe(used.model);
  used.release();
  expect(engine.closedModels).toBe(2);
  for (const lease of [fresh, again]) lease.release();
  expect((await registry.get('tiny')).loaded.map(({ users }) => users)).toEqual([0, 0]);
});

test('a load under way is use, and one that fails is not held', async () => {
  let fail = true;
  const gate = Promise.withResolvers<void>();
  const { registry } = setUp({
    models: { tiny: '/tiny' },
    loading: async () => {
      await gate.promise;
      if (fail) throw new Error('no memory');
    },
  });
  await registry.ready();
  const failing = registry.acquire('tiny');
  await new Promise(setImmediate);
  await expect(registry.unload('tiny')).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  gate.resolve();
  await expect(failing).rejects.toMatchObject({ reason: 'INTERNAL' });
  fail = false;
  expect((await registry.acquire('tiny')).registered.users).toBe(1);
});

test('tokenizer and renderers are made once; templates that do not fit say so', async () => {
  const { registry } = setUp({ models: { tiny: '/tiny' } });
  expect(await registry.tokenizer('tiny')).toBe(await registry.tokenizer('models/tiny'));
  expect(await registry.renderer('tiny', '')).toBe(await registry.renderer('tiny', ''));
  await expect(registry.renderer('tiny', 'nothing')).rejects.toMatchObject({ reason: 'TEMPLATE_NOT_FOUND' });
  const bare = tinyMetadata({ chatTemplate: null });
  const without = setUp({ models: { tiny: '/tiny' }, metadata: { tokenizer: { kind: 'gguf', metadata: bare } } });
  await expect(without.registry.renderer('tiny', '')).rejects.toMatchObject({ reason: 'TEMPLATE_UNUSABLE' });
});

test('a tokenizer with more ids than the embedding has rows is refused', async () => {
  const { registry } = setUp({ models: { tiny: '/tiny' }, metadata: { vocabSize: 275 } });
  await expect(registry.tokenizer('tiny')).rejects.toMatchObject({
    reason: 'TOKENIZER_UNSUPPORTED',
    message: expect.stringMatching(/the tokenizer has 276 ids, the model's embedding 275 rows/),
  });
});

test('a long text is encoded as a short one is, on a worker', async () => {
  const { registry } = setUp({ models: { tiny: '/tiny' } });
  const tokenizer = await registry.tokenizer('tiny');
  const text = 'hello hello 你 🙂 '.repeat(2000);
  expect(await registry.encode('tiny', text, {})).toEqual(tokenizer.encode(text));
  await registry.close();
});
