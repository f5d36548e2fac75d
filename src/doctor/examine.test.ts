import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { EngineError } from '../engine/errors.ts';
import type { Gpu, GpuProbe } from '../engine/gpus.ts';
import type { Addon } from '../engine/native-addon.ts';
import { openDataFolder } from '../store/data-folder.ts';
import { examine } from './examine.ts';
import type { System } from './system.ts';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-doctor-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const nothing: GpuProbe = { driverVersion: null, cudaVersion: null, gpus: [], problem: 'no driver; install it' };

const h100: Gpu = {
  index: 0,
  name: 'H100',
  computeCapability: '9.0',
  totalMemoryBytes: 80 * 2 ** 30,
  freeMemoryBytes: 79 * 2 ** 30,
  problem: null,
};
const t4: Gpu = {
  ...h100,
  index: 1,
  name: 'T4',
  computeCapability: '7.5',
  freeMemoryBytes: null,
  problem: 'T4 is old',
};
const gpus: GpuProbe = { driverVersion: '580.95', cudaVersion: '13.0', gpus: [h100, t4], problem: null };

interface Parts extends Partial<System> {
  readonly probe?: GpuProbe;
  readonly instructionSet?: string;
  readonly computes?: boolean;
  /** Libraries that cannot be opened. */
  readonly missing?: readonly string[];
}

const refuse = (message: string) => (): Addon => {
  throw new EngineError('INTERNAL', message);
};

function system({ probe = nothing, instructionSet = 'avx2', computes = false, missing = [], ...rest }: Parts = {}) {
  const addon: Addon = {
    NativeEngine: class {
      info() {
        return { version: '1.2.3', deviceName: 'Processor', instructionSet };
      }
      async close() {}
    } as never,
    capabilities: () => ({ cuda: computes }),
    probeGpus: () => probe,
    libraryProblem: (name) => (missing.includes(name) ? `${name}: not found` : null),
  };
  return {
    nodeVersion: '24.0.0',
    nodeIsSupported: true,
    addons: { cpu: () => addon, cuda: computes ? () => addon : refuse('not built; run `npm run build:cuda`') },
    memory: { totalBytes: 2 ** 34, availableBytes: 2 ** 33 },
    libraryFolders: [],
    ...rest,
  } satisfies System;
}

async function report(parts: Parts, device: 'auto' | 'cpu' | 'cuda' = 'auto', dataDir = join(scratch, 'new')) {
  const found = await examine({ device, dataDir }, system(parts));
  return { ...found, of: (name: string) => found.findings.find((finding) => finding.name === name) };
}

test('a machine without a GPU starts on the processor; what a GPU needs is absent, with what to do', async () => {
  const missing = ['libcuda.so.1', 'libcublasLt.so.13', 'libcudnn.so.9'];
  const { canStart, device, of, gpus } = await report({ missing });
  expect({ canStart, device, gpus }).toEqual({ canStart: true, device: 'cpu', gpus: nothing });
  expect(of('engine')).toMatchObject({ status: 'ok', found: 'engine/binding/luthier.node 1.2.3' });
  expect(of('processor')?.found).toMatch(/^Processor, \d+ threads, avx2$/);
  expect(of('memory')).toMatchObject({ status: 'ok', found: '8.0 GiB of 16.0 GiB available' });
  expect(of('GPU driver')).toMatchObject({ status: 'absent', found: 'no driver', advice: 'install it' });
  expect(of('libcuda.so.1')).toMatchObject({ status: 'absent', advice: "install NVIDIA's driver 580 or later" });
  expect(of('libcublasLt.so.13')?.found).toBe('libcublasLt.so.13: not found');
  expect(of('libcudnn.so.9')).toMatchObject({ status: 'absent', found: 'libcudnn.so.9: not found' });
  expect(of('CUDA engine')).toMatchObject({ status: 'absent', found: 'not built', advice: 'run `npm run build:cuda`' });
  expect(of('device')?.found).toBe('cpu (--device auto): no GPU is used: no driver; install it');
});

test('a GPU machine: driver, every GPU, libraries and the device that would be taken', async () => {
  const { device, of } = await report({ probe: gpus, computes: true });
  expect(device).toBe('cuda:0');
  expect(of('GPU driver')).toMatchObject({ status: 'ok', found: 'driver 580.95, CUDA 13.0 or earlier' });
  const found = 'H100, 80.0 GiB, 79.0 GiB free, compute capability 9.0';
  expect(of('cuda:0')).toMatchObject({ status: 'ok', found });
  expect(of('cuda:1')).toMatchObject({
    status: 'absent',
    found: 'T4, 80.0 GiB, compute capability 7.5',
    advice: 'T4 is old',
  });
  expect(of('libcuda.so.1')?.status).toBe('ok');
  expect(of('CUDA engine')?.status).toBe('ok');
});

test('a CUDA library in a folder that the CUDA engine knows counts', async () => {
  const [folder, name] = [join(scratch, 'libraries'), 'libcublasLt.so.13'];
  mkdirSync(folder);
  writeFileSync(join(folder, name), '');
  const { of } = await report({ missing: [name], libraryFolders: [join(scratch, 'none'), folder] });
  expect(of(name)).toMatchObject({ status: 'ok', found: join(folder, name) });
});

test('what keeps the server from starting is a failure', async () => {
  const asked = await report({}, 'cuda');
  expect(asked.canStart).toBe(false);
  expect(asked.device).toBeNull();
  expect(asked.of('device')).toMatchObject({
    status: 'failure',
    found: 'the device cuda cannot be used: no driver; install it',
    advice: 'with --device cpu the processor computes',
  });
  const old = await report({ nodeIsSupported: false });
  expect(old.canStart).toBe(false);
  expect(old.of('node')?.advice).toContain('22.13');
  const unbuilt = await report({ addons: { cpu: refuse('not built; run x'), cuda: refuse('neither') } });
  expect(unbuilt).toMatchObject({ canStart: false, gpus: null });
  expect(unbuilt.of('engine')).toMatchObject({ status: 'failure', found: 'not built', advice: 'run x' });
});

test('the CUDA engine alone can start on a GPU', async () => {
  const { addons } = system({ probe: gpus, computes: true });
  const alone = await report({ addons: { cpu: refuse('not built; run x'), cuda: addons.cuda } });
  expect(alone).toMatchObject({ canStart: true, device: 'cuda:0' });
  expect(alone.of('engine')?.status).toBe('absent');
});

test('a slow processor and little memory are warnings', async () => {
  const { canStart, of } = await report({
    instructionSet: 'scalar',
    memory: { totalBytes: 2 ** 30, availableBytes: 2 ** 29 },
  });
  expect(canStart).toBe(true);
  expect([of('processor')?.status, of('memory')?.status]).toEqual(['warning', 'warning']);
});

test('a data folder: to be made, in use, another file in its place; nothing is made', async () => {
  expect((await report({})).of('data folder')?.found).toMatch(/new \(to be made\), \d+\.\d GiB free$/);
  expect(readdirSync(scratch)).not.toContain('new');

  const used = join(scratch, 'used');
  const open = await openDataFolder(used);
  expect((await report({}, 'auto', used)).of('data folder')).toMatchObject({
    status: 'ok',
    found: `${used} is used by a server that runs`,
  });
  open.close();
  expect((await report({}, 'auto', used)).of('data folder')?.found).toMatch(/used, \d+\.\d GiB free$/);

  const file = join(scratch, 'file');
  writeFileSync(file, '');
  const { canStart, of } = await report({}, 'auto', join(file, 'below'));
  expect(canStart).toBe(false);
  expect(of('data folder')).toMatchObject({
    status: 'failure',
    advice: 'name another folder with --data-dir, or change its rights',
  });
});
