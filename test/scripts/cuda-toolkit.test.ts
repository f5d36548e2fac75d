/** Which folders are taken for a CUDA toolkit. Nothing is fetched. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { candidates, missingIn, toolkitEnvironment } from '../../scripts/cuda-toolkit.mjs';

const home = mkdtempSync(join(tmpdir(), 'luthier-cuda-'));
afterAll(() => rmSync(home, { recursive: true }));

function add(name: string, text = ''): void {
  mkdirSync(dirname(join(home, name)), { recursive: true });
  writeFileSync(join(home, name), text);
}

test('a toolkit has nvcc, headers of the right version and cuBLASLt; what is missing is named', () => {
  expect(missingIn(home)).toBe('there is no bin/nvcc');
  add('bin/nvcc');
  expect(missingIn(home)).toBe('expected CUDA 13, found no include/cuda.h');
  add('include/cuda.h', '#define CUDA_VERSION 12080\n');
  expect(missingIn(home)).toBe('expected CUDA 13, found 12.8');
  add('include/cuda.h', '/** */\n#define CUDA_VERSION 13000\n');
  expect(missingIn(home)).toBe('there is no include/cublasLt.h');
  add('include/cublasLt.h');
  expect(missingIn(home)).toBe('there is no libcublasLt.so');
  add('lib/libcublasLt.so');
  expect(missingIn(home)).toBeNull();
});

test('named folders come before the usual one, and that before the PATH', () => {
  const env = { CUDA_HOME: '/a', CUDA_PATH: '/b', PATH: `/nowhere:${join(home, 'bin')}` };
  expect(candidates(env)).toEqual(['/a', '/b', '/usr/local/cuda', home]);
  expect(candidates({ CUDA_HOME: '/a', CUDA_PATH: '/a' })).toEqual(['/a', '/usr/local/cuda']);
});

test('the environment names the toolkit, its compiler and its libraries', () => {
  const lib = join(home, 'lib');
  expect(toolkitEnvironment(home, { PATH: '/bin' })).toMatchObject({
    CUDA_HOME: home,
    PATH: `${join(home, 'bin')}:/bin`,
    LIBRARY_PATH: `${lib}:${join(lib, 'stubs')}`,
    LUTHIER_CUDA_LIBRARIES: lib,
  });
});
