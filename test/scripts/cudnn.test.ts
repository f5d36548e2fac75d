/** Where cuDNN's headers are taken from. Nothing is fetched. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test, vi } from 'vitest';
import { cudnnEnvironment, ownCudnnLibraries } from '../../scripts/cudnn.mjs';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-cudnn-'));
afterAll(() => rmSync(scratch, { recursive: true }));

function add(folder: string, ...names: string[]): void {
  mkdirSync(folder, { recursive: true });
  for (const name of names) writeFileSync(join(folder, name), '');
}

test('a toolkit that has the headers is enough', async () => {
  const home = join(scratch, 'toolkit');
  add(join(home, 'include'), 'cudnn.h', 'cudnn_frontend.h');
  expect(await cudnnEnvironment(home, {})).toEqual({});
});

test('where a toolkit lacks them, the folder that was set up before is named, its library included', async () => {
  vi.stubEnv('LUTHIER_CACHE', scratch);
  const root = join(scratch, 'cudnn-9');
  const folders = [join(root, 'include'), join(root, 'nvidia', 'cudnn', 'include')] as const;
  add(folders[0], 'cudnn_frontend.h');
  add(folders[1], 'cudnn.h');
  const found = await cudnnEnvironment(join(scratch, 'bare'), { LUTHIER_CUDA_LIBRARIES: '/cuda/lib' });
  expect(found).toEqual({
    LUTHIER_CUDNN_INCLUDE: folders.join(':'),
    LUTHIER_CUDA_LIBRARIES: `/cuda/lib:${ownCudnnLibraries()}`,
  });
  expect(ownCudnnLibraries()).toBe(join(root, 'nvidia', 'cudnn', 'lib'));
  vi.unstubAllEnvs();
});
