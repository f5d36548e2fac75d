import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { loadAddon } from './addon-files.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-addon-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A file that `require` runs in the place of an addon. */
function addonFile(name: string, text: string) {
  const path = join(folder, name);
  writeFileSync(path, text);
  return { name: `engine/${name}`, path, build: 'npm run it' };
}

test('a build that is not there says how to make it', () => {
  const file = { name: 'engine/none.node', path: join(folder, 'none.node'), build: 'npm run it' };
  expect(() => loadAddon(file)).toThrow('the engine is not built: there is no engine/none.node; run `npm run it`');
});

test('a file that is no addon says so without the folder it lies in', () => {
  const file = addonFile('broken.node', 'nothing');
  expect(() => loadAddon(file)).toThrow(
    /^the engine engine\/broken\.node cannot be loaded: .*; run `npm run it` on this/,
  );
  expect(() => loadAddon(file)).not.toThrow(folder);
});

test.each([
  ['libcuda.so.1', "install NVIDIA's driver 580 or later"],
  ['libcublasLt.so.13', 'run `npm run build:cuda` on this machine, or install cuBLAS of CUDA 13'],
])('a build that lacks %s says what provides it', (library, advice) => {
  const message = `${library}: cannot open shared object file: No such file or directory`;
  const file = addonFile(`${library}.cjs`, `throw new Error(${JSON.stringify(message)});`);
  expect(() => loadAddon(file)).toThrow(`cannot be loaded: ${message}; ${advice}`);
});

test.each([
  ['module.exports = { NativeEngine: class {} };', 'capabilities'],
  ['module.exports = { NativeEngine: class {}, capabilities() {}, probeGpus() {}, libraryProblem() {} };', 'info'],
  ['module.exports = {};', 'NativeEngine'],
])('a build of other sources is refused before anything is asked of it: %s', (text, missing) => {
  const file = addonFile(`without-${missing}.cjs`, text);
  expect(() => loadAddon(file)).toThrow(
    `the engine ${file.name} was built from other sources: it has no ${missing}; run \`npm run it\``,
  );
});
