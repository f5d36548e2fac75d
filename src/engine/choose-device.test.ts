import { expect, test } from 'vitest';
import type { Addons } from './addon-files.ts';
import { chooseDevice } from './choose-device.ts';
import type { DeviceSetting } from './device-setting.ts';
import { EngineError } from './errors.ts';
import type { Gpu, GpuProbe } from './gpus.ts';
import type { Addon } from './native-addon.ts';

const gpu = (index: number, problem: string | null = null): Gpu => ({
  index,
  name: `GPU${index}`,
  computeCapability: problem === null ? '9.0' : '7.5',
  totalMemoryBytes: 2 ** 36,
  freeMemoryBytes: null,
  problem,
});

const found = (...gpus: readonly Gpu[]): GpuProbe => ({
  driverVersion: '580.1',
  cudaVersion: '13.0',
  gpus,
  problem: gpus.find(({ problem }) => problem === null) ? null : 'no driver; install one',
});

interface Machine {
  readonly probe?: GpuProbe;
  /** Why a build does not load. */
  readonly cpu?: string;
  readonly cuda?: string;
  readonly computes?: boolean;
}

function machine({ probe = found(gpu(0)), cpu, cuda, computes = true }: Machine) {
  const probes: string[] = [];
  const addon = (name: string, cudaWorks: boolean): Addon => ({
    NativeEngine: class {} as never,
    capabilities: () => ({ cuda: cudaWorks }),
    probeGpus: () => {
      probes.push(name);
      return probe;
    },
    libraryProblem: () => null,
  });
  const [onCpu, onCuda] = [addon('cpu', false), addon('cuda', computes)];
  const load = (loaded: Addon, problem: string | undefined) => () => {
    if (problem !== undefined) throw new EngineError('INTERNAL', problem);
    return loaded;
  };
  const addons: Addons = { cpu: load(onCpu, cpu), cuda: load(onCuda, cuda) };
  return { addons, onCpu, onCuda, probes };
}

test('auto takes the first GPU that can be used, with the build that computes on it', () => {
  const { addons, onCuda } = machine({ probe: found(gpu(0, 'too old'), gpu(1), gpu(2)) });
  const { addon, ...choice } = chooseDevice('auto', addons);
  expect(addon).toBe(onCuda);
  expect(choice).toMatchObject({
    device: 'cuda:1',
    reason: 'the first GPU that can be used: GPU1 (cuda:1, compute capability 9.0)',
  });
  expect(choice.gpus).toHaveLength(3);
});

test.each<[string, Machine, string]>([
  ['no GPU', { probe: found() }, 'no GPU is used: no driver; install one'],
  ['only old GPUs', { probe: found(gpu(0, 'old')) }, 'no GPU is used: no driver; install one'],
  [
    'no CUDA build',
    { cuda: 'not built; run x' },
    'GPU0 (cuda:0, compute capability 9.0) is not used: not built; run x',
  ],
  [
    'a build that cannot',
    { computes: false },
    'is not used: engine/binding/luthier-cuda.node was built without CUDA; run `npm run build:cuda`',
  ],
])('auto takes the processor where there is %s, and says so; cuda is refused', (_, described, reason) => {
  const { addons, onCpu } = machine(described);
  const choice = chooseDevice('auto', addons);
  expect(choice.device).toBe('cpu');
  expect(choice.addon).toBe(onCpu);
  expect(choice.reason).toContain(reason);
  const problem = reason.split(/is (?:not )?used: /)[1];
  const message = `the device cuda cannot be used: ${problem}; with --device cpu the processor computes`;
  expect(() => chooseDevice('cuda', addons)).toThrow(new EngineError('INVALID_ARGUMENT', message));
});

test('cpu asks no driver and loads no CUDA build', () => {
  const { addons, onCpu, probes } = machine({ cuda: 'must not be loaded' });
  const expected = { device: 'cpu', reason: 'asked for by the setting', gpus: [], addon: onCpu };
  expect(chooseDevice('cpu', addons)).toEqual(expected);
  expect(probes).toEqual([]);
});

test('several devices: ranks of the processor, and GPUs that are all there, each once', () => {
  const { addons, onCpu, onCuda, probes } = machine({ probe: found(gpu(0), gpu(1), gpu(2, 'GPU2 is old')) });
  expect(chooseDevice('cpu×2', addons)).toMatchObject({ device: 'cpu×2', gpus: [], addon: onCpu });
  expect(probes).toEqual([]);
  expect(chooseDevice('cuda:1,0', addons)).toMatchObject({
    device: 'cuda:1,0',
    reason: 'asked for by the setting: GPU1 (cuda:1, compute capability 9.0), GPU0 (cuda:0, compute capability 9.0)',
    addon: onCuda,
  });
  const refused = (wanted: DeviceSetting) => () => chooseDevice(wanted, addons);
  expect(refused('cuda:0,0')).toThrow('the device cuda:0,0 cannot be used: GPU 0 is named twice');
  expect(refused('cuda:0,3')).toThrow('there is no GPU 3; found GPU0');
  expect(refused('cuda:0,2')).toThrow('GPU2 is old');
});

test('cuda and cuda:N take what was asked for', () => {
  const { addons } = machine({ probe: found(gpu(0, 'old'), gpu(1), gpu(2)) });
  expect(chooseDevice('cuda', addons).device).toBe('cuda:1');
  const second = chooseDevice('cuda:2', addons);
  expect(second.device).toBe('cuda:2');
  expect(second.reason).toBe('asked for by the setting: GPU2 (cuda:2, compute capability 9.0)');
});

test.each<[DeviceSetting, string]>([
  ['cuda:0', 'the device cuda:0 cannot be used: GPU0 is old'],
  ['cuda:3', 'there is no GPU 3; found GPU0 (cuda:0, compute capability 7.5), GPU1 (cuda:1, compute capability 9.0)'],
])('%s is refused where it cannot be had', (wanted, message) => {
  const { addons } = machine({ probe: found(gpu(0, 'GPU0 is old'), gpu(1)) });
  expect(() => chooseDevice(wanted, addons)).toThrow(message);
});

test('the CUDA build alone is enough for a GPU; the processor needs its own', () => {
  const alone = machine({ cpu: 'not built; run `npm run build`' });
  expect(chooseDevice('auto', alone.addons).device).toBe('cuda:0');
  expect(alone.probes).toEqual(['cuda']);
  expect(() => chooseDevice('cpu', alone.addons)).toThrow('not built');
  const withoutGpu = machine({ cpu: 'not built', probe: found() });
  expect(() => chooseDevice('auto', withoutGpu.addons)).toThrow('not built');
});

test('without any build the message is that of the one that everyone needs', () => {
  const { addons } = machine({ cpu: 'cpu is not built', cuda: 'cuda is not built' });
  for (const wanted of ['auto', 'cpu', 'cuda'] as const) {
    expect(() => chooseDevice(wanted, addons)).toThrow(new EngineError('INTERNAL', 'cpu is not built'));
  }
});

test('what is no EngineError is not taken for a missing build', () => {
  const defect = () => {
    throw new TypeError('defect');
  };
  expect(() => chooseDevice('auto', { cpu: defect, cuda: defect })).toThrow(TypeError);
});
