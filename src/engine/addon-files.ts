/** The two builds of the addon: where they are, and loading them. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { EngineError } from './errors.ts';
import type { Addon, NativeEngine } from './native-addon.ts';

/** A build of the addon. */
export interface AddonFile {
  /** As messages name it: clients read some of them, and where the server is installed is not theirs to know. */
  readonly name: string;
  readonly path: string;
  /** The command that makes it. */
  readonly build: string;
}

/** Computes on the processor. */
export const CPU_ADDON: AddonFile = {
  name: 'engine/binding/luthier.node',
  path: fileURLToPath(new URL('../../engine/binding/luthier.node', import.meta.url)),
  build: 'npm run build',
};

/** Linked with the CUDA libraries, and so not to be loaded where they are missing. */
export const CUDA_ADDON: AddonFile = {
  name: 'engine/binding/luthier-cuda.node',
  path: fileURLToPath(new URL('../../engine/binding/luthier-cuda.node', import.meta.url)),
  build: 'npm run build:cuda',
};

/** What every build has. */
const EXPORTS = {
  NativeEngine: true,
  capabilities: true,
  probeGpus: true,
  libraryProblem: true,
} satisfies Record<keyof Addon, true>;
const METHODS = {
  info: true,
  readMetadata: true,
  loadModel: true,
  weightBytes: true,
  quantizeModel: true,
  checkTargets: true,
  estimateTraining: true,
  readAdapter: true,
  mergeAdapter: true,
  close: true,
} satisfies Record<keyof NativeEngine, true>;

/** Loads a build on demand. Both throw EngineError INTERNAL, saying what to do. */
export interface Addons {
  cpu(): Addon;
  cuda(): Addon;
}

/** Libraries that the CUDA addon is linked with or, as the last one, opens where it is, and what provides them. */
export const CUDA_LIBRARIES: readonly { readonly name: string; readonly advice: string }[] = [
  { name: 'libcuda.so.1', advice: "install NVIDIA's driver 580 or later" },
  {
    name: 'libcublasLt.so.13',
    advice:
      'run `npm run build:cuda` on this machine, or install cuBLAS of CUDA 13 and name its folder in LD_LIBRARY_PATH',
  },
  {
    name: 'libcudnn.so.9',
    advice:
      "attention is then our kernels', at 95 % of the speed; install cuDNN 9 for CUDA 13 and name its folder in LD_LIBRARY_PATH",
  },
  {
    name: 'libnccl.so.2',
    advice:
      'only training on several GPUs needs it; install the package libnccl2, or the Python wheel nvidia-nccl-cu13 and name its folder in LD_LIBRARY_PATH',
  },
];

/**
 * Loads a build of the addon.
 * @throws EngineError INTERNAL where it is missing, made for another machine or another version, or lacks a library
 */
export function loadAddon(file: AddonFile): Addon {
  if (!existsSync(file.path)) {
    throw new EngineError('INTERNAL', `the engine is not built: there is no ${file.name}; run \`${file.build}\``);
  }
  let addon: Addon;
  try {
    addon = createRequire(import.meta.url)(file.path) as Addon;
  } catch (cause) {
    const reason = (cause instanceof Error ? cause.message : String(cause)).replaceAll(file.path, file.name);
    const library = CUDA_LIBRARIES.find(({ name }) => reason.includes(name));
    const advice = library?.advice ?? `run \`${file.build}\` on this machine`;
    throw new EngineError('INTERNAL', `the engine ${file.name} cannot be loaded: ${reason}; ${advice}`, { cause });
  }
  // An older file would fail later, and without a name.
  const exports = Object.keys(EXPORTS).filter((name) => !(name in addon));
  const methods = Object.keys(METHODS).filter((name) => !(name in (addon.NativeEngine?.prototype ?? {})));
  const [missing] = [...exports, ...methods];
  if (missing !== undefined) {
    const message = `the engine ${file.name} was built from other sources: it has no ${missing}; run \`${file.build}\``;
    throw new EngineError('INTERNAL', message);
  }
  return addon;
}

/** The builds of this installation. */
export const INSTALLED_ADDONS: Addons = { cpu: () => loadAddon(CPU_ADDON), cuda: () => loadAddon(CUDA_ADDON) };
