import { mkdirSync, mkdtempSync, realpathSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { openDatabase } from '../store/database.ts';
import { createModelRegistry } from './create-model-registry.ts';
import { ImportedModels } from './imported-models.ts';

/** Folders `a` and `b` with files of a model, a configured model `own`, and registries over one database. */
function setUp(used: string[] = []) {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-imports-')));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  for (const name of ['a', 'b', 'own']) {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, 'config.json'), '{}');
    writeFileSync(join(root, name, 'model.safetensors'), 'weights');
  }
  const database = openDatabase(join(root, 'test.db'));
  onTestFinished(() => database.close());
  const metadata = { contentHash: 'c0ffee' };
  /** As after a start of the server. */
  const start = () => {
    const engine = scriptedEngine({ metadata });
    const logger = { warn: vi.fn(), info: vi.fn() };
    const models = { own: join(root, 'own') };
    const inUse = async (name: string) => used.includes(name);
    const imports = new ImportedModels(database);
    return { engine, logger, registry: createModelRegistry({ engine, models, roots: [root], imports, inUse, logger }) };
  };
  return { root, metadata, start, path: (name: string) => join(root, name) };
}

const names = (registry: ReturnType<ReturnType<typeof setUp>['start']>['registry']) =>
  registry.list().map(({ name }) => name);

test('an import is remembered, and no file is read until it is used', async () => {
  const { start, path } = setUp();
  const before = start();
  expect(await before.registry.import(path('a'), 'first')).toMatchObject({ name: 'models/first' });
  expect(await before.registry.import(path('b'), '')).toMatchObject({ name: 'models/b' });
  const { registry, engine } = start();
  await registry.ready();
  engine.reads.length = 0;
  expect(registry.list()).toMatchObject([
    { name: 'models/b', importTime: expect.any(Date) },
    { name: 'models/first', metadata: { path: path('a'), contentHash: 'c0ffee' }, hasChatTemplate: true },
    { name: 'models/own', importTime: null },
  ]);
  expect(engine.reads).toEqual([]);
  expect((await registry.get('first')).name).toBe('models/first');
  expect((await registry.get(path('a'))).name).toBe('models/first');
  expect(engine.reads).toEqual([path('a')]);
  (await registry.acquire('models/first')).release();
});

test('one path has one name, and one name one path', async () => {
  const { start, path } = setUp();
  const { registry } = start();
  await registry.import(path('a'), 'x');
  const refused = (from: string, id: string, text: RegExp) =>
    expect(registry.import(path(from), id)).rejects.toMatchObject({
      reason: 'MODEL_EXISTS',
      message: expect.stringMatching(text),
    });
  await refused('a', 'y', /imported already, as models\/x/);
  await refused('b', 'x', /models\/x is there already, from .*\/a; choose another/);
  await refused('b', 'own', /models\/own is there already, from .*\/own/);
  await refused('own', '', /is models\/own by the server's own settings/);
  await expect(registry.import('/elsewhere', '')).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
  const both = await Promise.allSettled([registry.import(path('b'), 'y'), registry.import(path('b'), 'z')]);
  expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(names(registry)).toHaveLength(3);
});

test('a model that was named by path gets the name it is imported with, unless it is used', async () => {
  const { start, path } = setUp();
  const { registry, engine } = start();
  const lease = await registry.acquire(path('a'));
  expect(lease.registered.name).toBe('models/a');
  await expect(registry.import(path('a'), 'x')).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  lease.release();
  await registry.import(path('a'), 'x');
  expect(engine.closedModels).toBe(1);
  expect(names(registry)).toEqual(['models/own', 'models/x']);
  await expect(registry.get('models/a')).rejects.toMatchObject({ reason: 'MODEL_NOT_FOUND' });
});

test('what an adapter is stored for is remembered by itself', async () => {
  const { start, path } = setUp();
  const before = start();
  await before.registry.get(path('a'));
  await before.registry.get(path('b'));
  await before.registry.keep('models/a');
  await before.registry.keep('models/own');
  const { registry } = start();
  await registry.ready();
  expect(registry.list()).toMatchObject([{ name: 'models/a' }, { name: 'models/own', importTime: null }]);
});

test('a deleted import is forgotten and its files stay; what is used or configured is not deleted', async () => {
  const used: string[] = [];
  const { start, path } = setUp(used);
  const { registry, engine } = start();
  await registry.import(path('a'), 'x');
  const lease = await registry.acquire('x');
  await expect(registry.delete('models/x')).rejects.toMatchObject({ reason: 'MODEL_IN_USE' });
  lease.release();
  for (const name of ['models/x', 'x', path('a')]) {
    used.push(name);
    await expect(registry.delete('models/x')).rejects.toMatchObject({
      reason: 'MODEL_IN_USE',
      message: expect.stringMatching(/training job/),
    });
    used.pop();
  }
  await expect(registry.delete('own')).rejects.toMatchObject({ reason: 'INVALID_STATE' });
  await expect(registry.delete('none')).rejects.toMatchObject({ reason: 'MODEL_NOT_FOUND' });
  expect(await registry.delete(path('a'))).toBe('models/x');
  expect(engine.closedModels).toBe(1);
  const again = start().registry;
  await expect(again.get('models/x')).rejects.toMatchObject({ reason: 'MODEL_NOT_FOUND' });
  expect((await again.get(path('a'))).name).toBe('models/a');
});

test.each([
  ['other weights', 'model.safetensors', 'more weights', /model.safetensors had 7 bytes and has 12/],
  ['another configuration of the same size', 'config.json', '[]', /config.json was written on/],
  ['a new file', 'chat_template.jinja', 'x', /chat_template.jinja is new/],
])('an import with %s is refused until it is imported again', async (_, file, contents, text) => {
  const { start, path } = setUp();
  await start().registry.import(path('a'), 'x');
  const { registry, engine } = start();
  writeFileSync(join(path('a'), file), contents);
  utimesSync(join(path('a'), file), 1, 1);
  const refusal = { reason: 'MODEL_CHANGED', message: expect.stringMatching(text) };
  await expect(registry.checkFiles('models/x')).rejects.toMatchObject(refusal);
  await expect(registry.acquire('models/x')).rejects.toMatchObject(refusal);
  expect(await registry.changes('models/x')).toMatch(/import .*\/a again to go on/);
  expect(engine.loads).toEqual([]);
  expect((await registry.import(path('a'), '')).name).toBe('models/x');
  expect(await registry.changes('models/x')).toBe('');
  (await registry.acquire('models/x')).release();
});

test('files with other times and the same contents are those that were imported', async () => {
  const { start, path, metadata } = setUp();
  const { registry, engine } = start();
  await registry.import(path('a'), 'x');
  utimesSync(join(path('a'), 'model.safetensors'), 1, 1);
  engine.reads.length = 0;
  await registry.checkFiles('x');
  await registry.checkFiles('x');
  // Contents are compared once.
  expect(engine.reads).toEqual([path('a')]);
  metadata.contentHash = 'dead';
  utimesSync(join(path('a'), 'model.safetensors'), 2, 2);
  await expect(registry.checkFiles('x')).rejects.toMatchObject({ reason: 'MODEL_CHANGED' });
});

test('an import whose files are gone says so', async () => {
  const { start, path } = setUp();
  const { registry } = start();
  await registry.import(path('a'), 'x');
  renameSync(path('a'), path('c'));
  await expect(registry.checkFiles('x')).rejects.toMatchObject({
    reason: 'MODEL_NOT_FOUND',
    message: expect.stringMatching(/the files of models\/x are gone/),
  });
  expect(await registry.delete('x')).toBe('models/x');
});

test('imported again while it is used, it is other weights from then on', async () => {
  const { start, path, metadata } = setUp();
  const { registry, engine } = start();
  await registry.import(path('a'), 'x');
  const old = await registry.acquire('x', LoadIn.LOAD_IN_4BIT);
  writeFileSync(join(path('a'), 'model.safetensors'), 'more weights');
  metadata.contentHash = 'beef';
  await registry.import(path('a'), 'x');
  const fresh = await registry.acquire('x', LoadIn.LOAD_IN_4BIT);
  expect(fresh.model).not.toBe(old.model);
  expect(fresh.registered.metadata.contentHash).toBe('beef');
  old.release();
  expect(engine.closedModels).toBe(1);
});

test('of what is not imported, changed files are taken as they are, and that is logged', async () => {
  const { start, path, metadata } = setUp();
  const { registry, engine, logger } = start();
  const first = await registry.tokenizer(path('a'));
  metadata.contentHash = 'beef';
  writeFileSync(join(path('a'), 'tokenizer.json'), '{}');
  await registry.checkFiles(path('a'));
  expect(logger.warn).toHaveBeenCalledWith(
    { model: 'models/a', changes: ['tokenizer.json is new'] },
    expect.stringMatching(/read again/),
  );
  expect(await registry.tokenizer(path('a'))).not.toBe(first);
  expect((await registry.get(path('a'))).metadata.contentHash).toBe('beef');
  expect(engine.reads.filter((read) => read === path('a'))).toHaveLength(2);
});
