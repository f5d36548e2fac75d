import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { EngineError } from '../engine/errors.ts';
import { createFakeEngine, type FakeEngineOptions } from '../engine/fake.ts';
import { openDatabase } from '../store/database.ts';
import { WritingFolders } from '../store/writing-folders.ts';
import { quantizeModel } from './quantize-model.ts';

function setUp(options: FakeEngineOptions = {}) {
  const root = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-quantize-')));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const [engine, controller] = [createFakeEngine(options), new AbortController()];
  const writing = new WritingFolders(openDatabase(':memory:'));
  const given = { engine, base: '/base', storage: 'int8', roots: [root], writing, signal: controller.signal } as const;
  const start = (path: string) => quantizeModel({ ...given, path });
  return { root, controller, writing, start };
}

async function events(stream: ReturnType<typeof quantizeModel>) {
  const found = [];
  for await (const { event } of stream) found.push(event);
  return found;
}

test('progress comes first, then what was written; the folder appears whole', async () => {
  const { root, start } = setUp({ beforeQuantize: (folder) => expect(existsSync(folder)).toBe(true) });
  const target = join(root, 'deep', 'out');
  const found = await events(start('deep/out'));
  expect(found.map((event) => event?.$case)).toEqual(['progress', 'finished']);
  expect(found.at(-1)).toMatchObject({ value: { path: target } });
  expect(JSON.parse(readFileSync(join(target, 'config.json'), 'utf8'))).toEqual({ storage: 'int8' });
  expect(readdirSync(join(root, 'deep'))).toEqual(['out']);
});

test('an empty folder is filled; one with a file is refused, and so is a path outside of the roots', async () => {
  const { root, start } = setUp();
  mkdirSync(join(root, 'empty'));
  await events(start('empty'));
  expect(readdirSync(join(root, 'empty'))).toEqual(['config.json']);
  await expect(events(start('empty'))).rejects.toMatchObject({ reason: 'EXPORT_TARGET_NOT_EMPTY' });
  await expect(events(start('/elsewhere/out'))).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
  expect(readdirSync(root)).toEqual(['empty']);
});

test('a file where a folder should be, or above it, is said', async () => {
  const { root, start } = setUp();
  writeFileSync(join(root, 'file'), '');
  await expect(events(start('file'))).rejects.toMatchObject({ reason: 'EXPORT_TARGET_NOT_EMPTY' });
  for (const [path, parent] of [
    ['file/out', 'file'],
    ['file/deep/out', 'file/deep'],
  ] as const) {
    await expect(events(start(path))).rejects.toMatchObject({
      reason: 'INVALID_REQUEST',
      message: expect.stringContaining(`${join(root, parent)} cannot be made: a file stands in its way`),
    });
  }
});

test('a folder that appears meanwhile is not replaced', async () => {
  const { root, start } = setUp({
    beforeQuantize: () => {
      mkdirSync(join(root, 'out', 'precious'), { recursive: true });
    },
  });
  await expect(events(start('out'))).rejects.toMatchObject({ reason: 'EXPORT_TARGET_NOT_EMPTY' });
  expect(readdirSync(root)).toEqual(['out']);
  expect(readdirSync(join(root, 'out'))).toEqual(['precious']);
});

test('a full disk is reported as such and leaves nothing behind', async () => {
  const { root, start } = setUp({
    beforeQuantize: () => {
      throw new EngineError('STORAGE_FULL', 'cannot write model.safetensors: no space left on device');
    },
  });
  await expect(events(start('out'))).rejects.toMatchObject({ code: 'STORAGE_FULL' });
  expect(readdirSync(root)).toEqual([]);
});

test('an abort ends the work, which is waited for, and leaves nothing behind', async () => {
  const gate = Promise.withResolvers<void>();
  const { root, controller, start } = setUp({ beforeQuantize: () => gate.promise });
  const stream = events(start('out'));
  await expect.poll(() => readdirSync(root)).toHaveLength(1);
  controller.abort();
  gate.resolve();
  await expect(stream).rejects.toMatchObject({ code: 'CANCELLED' });
  expect(readdirSync(root)).toEqual([]);
});

test('the next server deletes what one that ended at once left behind', async () => {
  const gate = Promise.withResolvers<void>();
  const { root, start, writing, controller } = setUp({ beforeQuantize: () => gate.promise });
  const stream = events(start('out'));
  await expect.poll(() => readdirSync(root)).toEqual([expect.stringMatching(/^\.writing-/)]);
  mkdirSync(join(root, '.writing-another'));
  // As at its start.
  await writing.removeLeftovers();
  expect(readdirSync(root)).toEqual(['.writing-another']);
  controller.abort();
  gate.resolve();
  await expect(stream).rejects.toMatchObject({ code: 'CANCELLED' });
});

test('leaving the loop ends the work', async () => {
  const gate = Promise.withResolvers<void>();
  const { root, start } = setUp({ beforeQuantize: () => gate.promise });
  const stream = start('out');
  expect((await stream.next()).value?.event?.$case).toBe('progress');
  gate.resolve();
  await stream.return(undefined);
  expect(readdirSync(root)).toEqual([]);
});
