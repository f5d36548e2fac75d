import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { CheckpointStore } from './checkpoint-store.ts';

const JOB = 'trainingJobs/t';
const facts = { job: JOB, specHash: 'a', baseModelHash: 'b' };

function setUp() {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-checkpoints-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const store = new CheckpointStore(folder);
  const save = (globalStep: number) =>
    store.save(facts, async (path) => {
      await writeFile(join(path, 'state'), 'x'.repeat(globalStep));
      return { globalStep, files: [{ name: 'state', bytes: globalStep, sha256: 'c' }] };
    });
  return { folder, store, save };
}

test('checkpoints are found newest first, whatever their steps, with what they were made of', async () => {
  const { folder, store, save } = setUp();
  expect(await store.list(JOB)).toEqual([]);
  for (const step of [5, 10, 7]) await save(step);
  const found = await store.list(JOB);
  expect(found.map(({ name }) => name)).toEqual(['t/7-3', 't/10-2', 't/5-1']);
  const newest = found[0];
  if (newest === undefined) throw new Error('expected a checkpoint');
  expect(await store.read(newest)).toMatchObject({
    path: join(folder, 't', '7-3'),
    sizeBytes: 7,
    manifest: { ...facts, globalStep: 7, files: [{ name: 'state', bytes: 7, sha256: 'c' }] },
  });
  expect(await store.list('trainingJobs/other')).toEqual([]);
});

test('what fails leaves nothing behind', async () => {
  const { folder, store } = setUp();
  const failing = store.save(facts, async (path) => {
    await writeFile(join(path, 'state'), 'half');
    throw new Error('no space left');
  });
  await expect(failing).rejects.toThrow('no space left');
  expect(readdirSync(join(folder, 't'))).toEqual([]);
});

test('the newest are kept, those that are useless are not', async () => {
  const { store, save } = setUp();
  for (const step of [1, 2, 3, 4]) await save(step);
  await store.prune(JOB, 2, ['t/3-3']);
  expect((await store.list(JOB)).map(({ name }) => name)).toEqual(['t/4-4', 't/2-2']);
  await store.remove(JOB);
  expect(await store.list(JOB)).toEqual([]);
  await store.remove(JOB);
});

test.each([
  [
    'a file that is shorter',
    (folder: string) => truncateSync(join(folder, 'state'), 3),
    /state: expected 5 bytes, found 3 bytes/,
  ],
  [
    'a file that is gone',
    (folder: string) => rmSync(join(folder, 'state')),
    /state: expected 5 bytes, found no such file/,
  ],
  ['a manifest that is gone', (folder: string) => rmSync(join(folder, 'manifest.json')), /no manifest/],
  ['a manifest that is cut', (folder: string) => truncateSync(join(folder, 'manifest.json'), 20), /no manifest/],
  [
    'a manifest of another format',
    (folder: string) => {
      const path = join(folder, 'manifest.json');
      writeFileSync(path, readFileSync(path, 'utf8').replace('"format": 1', '"format": 2'));
    },
    /no manifest/,
  ],
])('%s is told', async (_, breakIt, message) => {
  const { store, save } = setUp();
  const saved = await save(5);
  await store.read(saved);
  breakIt(saved.path);
  await expect(store.read(saved)).rejects.toMatchObject({
    reason: 'CHECKPOINT_CORRUPT',
    message: expect.stringMatching(message),
  });
});

test('what cannot be read for another reason says nothing about the checkpoint', async () => {
  const { store, save } = setUp();
  const saved = await save(5);
  rmSync(join(saved.path, 'manifest.json'));
  mkdirSync(join(saved.path, 'manifest.json'));
  await expect(store.read(saved)).rejects.toMatchObject({ code: 'EISDIR' });
});

test('half-written folders and those of jobs that are over are swept', async () => {
  const { folder, store, save } = setUp();
  await save(5);
  for (const stray of ['t/.writing-1', 'gone/3-1', '.deleting-1']) mkdirSync(join(folder, stray), { recursive: true });
  await store.removeLeftovers(async (job) => job === JOB);
  expect(readdirSync(folder)).toEqual(['t']);
  expect(readdirSync(join(folder, 't'))).toEqual(['5-1']);
});
