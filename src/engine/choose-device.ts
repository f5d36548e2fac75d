/** Which device the engine opens, with which build of the addon, and why. Computes nothing. */
import { type Addons, CUDA_ADDON } from './addon-files.ts';
import type { DeviceSetting, Devices } from './device-setting.ts';
import { EngineError } from './errors.ts';
import type { Gpu, GpuProbe } from './gpus.ts';
import type { Addon } from './native-addon.ts';

/** What to open. */
export interface DeviceChoice {
  readonly device: Devices;
  /** For people, without a full stop. */
  readonly reason: string;
  /** All that were found; empty where none was looked for. */
  readonly gpus: readonly Gpu[];
  /** The build that computes on it. */
  readonly addon: Addon;
}

type Attempt = { readonly addon: Addon } | { readonly problem: string };

function attempt(load: () => Addon): Attempt {
  try {
    return { addon: load() };
  } catch (error) {
    if (error instanceof EngineError) return { problem: error.message };
    throw error;
  }
}

/** Either build can look; the smaller one is asked first. The CUDA build may be the only one. */
function lookForGpus(addons: Addons): GpuProbe {
  const cpu = attempt(addons.cpu);
  if ('addon' in cpu) return cpu.addon.probeGpus();
  const cuda = attempt(addons.cuda);
  if ('addon' in cuda) return cuda.addon.probeGpus();
  throw new EngineError('INTERNAL', cpu.problem);
}

const describe = (gpu: Gpu): string => `${gpu.name} (cuda:${gpu.index}, compute capability ${gpu.computeCapability})`;

/** The GPUs that are meant, or why they cannot be used. Null as indices: the first that can. */
function findGpus(
  { gpus, problem }: GpuProbe,
  indices: readonly number[] | null,
): { readonly found: readonly Gpu[] } | { readonly problem: string } {
  if (problem !== null) return { problem };
  const twice = indices?.find((index, place) => indices.indexOf(index) !== place);
  if (twice !== undefined) return { problem: `GPU ${twice} is named twice` };
  const found: Gpu[] = [];
  for (const index of indices ?? [null]) {
    const gpu = gpus.find((one) => (index === null ? one.problem === null : one.index === index));
    if (gpu === undefined) return { problem: `there is no GPU ${index}; found ${gpus.map(describe).join(', ')}` };
    if (gpu.problem !== null) return { problem: gpu.problem };
    found.push(gpu);
  }
  return { found };
}

/** The CUDA build, where it can compute on a GPU; else why not. */
function loadCuda(addons: Addons): Attempt {
  const loaded = attempt(addons.cuda);
  if ('problem' in loaded || loaded.addon.capabilities().cuda) return loaded;
  return { problem: `${CUDA_ADDON.name} was built without CUDA; run \`${CUDA_ADDON.build}\`` };
}

/**
 * Chooses. `auto` takes a GPU only where everything it needs is there, and says what was missing; a GPU that was asked for is had or refused.
 * @throws EngineError INVALID_ARGUMENT where a GPU was asked for and cannot be used, INTERNAL where no build can be loaded
 */
export function chooseDevice(wanted: DeviceSetting, addons: Addons): DeviceChoice {
  const asked = 'asked for by the setting';
  // Asks no driver: whoever wants the processor is kept apart from one that hangs.
  if (wanted.startsWith('cpu')) return { device: wanted as Devices, reason: asked, gpus: [], addon: addons.cpu() };

  const probe = lookForGpus(addons);
  const { gpus } = probe;
  const numbered = wanted.startsWith('cuda:');
  const onProcessor = (problem: string, subject: string): DeviceChoice => {
    if (wanted === 'auto') return { device: 'cpu', reason: `${subject}: ${problem}`, gpus, addon: addons.cpu() };
    const advice = 'with --device cpu the processor computes';
    throw new EngineError('INVALID_ARGUMENT', `the device ${wanted} cannot be used: ${problem}; ${advice}`);
  };
  const meant = findGpus(probe, numbered ? wanted.slice('cuda:'.length).split(',').map(Number) : null);
  if ('problem' in meant) return onProcessor(meant.problem, 'no GPU is used');
  const described = meant.found.map(describe).join(', ');
  const cuda = loadCuda(addons);
  if ('problem' in cuda) return onProcessor(cuda.problem, `${described} is not used`);
  const reason = `${numbered ? asked : 'the first GPU that can be used'}: ${described}`;
  return { device: `cuda:${meant.found.map(({ index }) => index).join(',')}`, reason, gpus, addon: cuda.addon };
}
