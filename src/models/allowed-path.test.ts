import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { LuthierError } from '../errors/luthier-error.ts';
import { checkNewFolder, checkPath } from './allowed-path.ts';

let base = '';
let root = '';

beforeAll(() => {
  base = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-paths-')));
  root = join(base, 'root');
  mkdirSync(join(root, 'folder'), { recursive: true });
  mkdirSync(join(base, 'outside'));
  mkdirSync(join(base, 'root-twin'));
  writeFileSync(join(root, 'folder', 'model.gguf'), '');
  writeFileSync(join(base, 'outside', 'secret'), '');
  symlinkSync(join(base, 'outside'), join(root, 'way-out'));
  symlinkSync(join(base, 'nowhere'), join(root, 'dangling'));
  symlinkSync(join(root, 'folder'), join(root, 'alias'));
  symlinkSync(root, join(base, 'root-link'));
});

afterAll(() => rmSync(base, { recursive: true, force: true }));

const refusal = async (path: string, roots: readonly string[]): Promise<string | null> => {
  try {
    await checkPath(path, roots);
    return null;
  } catch (error) {
    return error instanceof LuthierError ? error.reason : 'another error';
  }
};

test('a path under a root is returned without symbolic links', async () => {
  const model = join(root, 'folder', 'model.gguf');
  expect(await checkPath(model, [root])).toBe(model);
  expect(await checkPath(join(root, 'alias', 'model.gguf'), [root])).toBe(model);
  expect(await checkPath(join(base, 'root-link', 'folder', 'model.gguf'), [root])).toBe(model);
  expect(await checkPath(model, [join(base, 'root-link')])).toBe(model);
  expect(await checkPath(root, [root])).toBe(root);
});

test('a relative path is looked for under each root', async () => {
  const model = join(root, 'folder', 'model.gguf');
  expect(await checkPath('folder/model.gguf', [join(base, 'outside'), root])).toBe(model);
});

test('a path that does not exist yet is allowed under a root', async () => {
  expect(await checkPath(join(root, 'new', 'deep'), [root])).toBe(join(root, 'new', 'deep'));
  expect(await checkPath(join(root, 'alias', 'new'), [root])).toBe(join(root, 'folder', 'new'));
});

test.each([
  ['outside', () => join(base, 'outside', 'secret')],
  ['outside and missing', () => join(base, 'outside', 'missing')],
  ['a sibling whose name starts like the root', () => join(base, 'root-twin')],
  ['the parent', () => join(root, '..')],
  ['dots that lead out', () => `${root}/folder/../../outside/secret`],
  ['relative dots', () => '../outside/secret'],
  ['a symbolic link that leads out', () => join(root, 'way-out', 'secret')],
  ['something new behind a link that leads out', () => join(root, 'way-out', 'new')],
  ['a link that leads nowhere', () => join(root, 'dangling')],
  ['something behind a link that leads nowhere', () => join(root, 'dangling', 'x')],
  ['nothing', () => ''],
  ['a zero byte', () => `${root}/a\0b`],
])('%s is refused', async (_name, path) => {
  expect(await refusal(path(), [root])).toBe('PATH_NOT_ALLOWED');
});

test('without roots every path is refused, with the same answer for what exists and what does not', async () => {
  expect(await refusal(root, [])).toBe('PATH_NOT_ALLOWED');
  expect(await refusal(join(base, 'missing'), [])).toBe('PATH_NOT_ALLOWED');
});

test('a new folder lies below a root and is not the root, by whatever name', async () => {
  expect(await checkNewFolder(join(root, 'new'), [root])).toBe(join(root, 'new'));
  for (const path of [root, join(base, 'root-link'), '.', `${root}/folder/..`]) {
    await expect(checkNewFolder(path, [join(base, 'outside'), join(base, 'root-link')])).rejects.toMatchObject({
      reason: 'PATH_NOT_ALLOWED',
      message: expect.stringMatching(/name a new one below it/),
    });
  }
});
