/** The driver, the GPUs, the libraries and the addon that computing on a GPU needs. None is needed to start on the processor. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { CUDA_ADDON, CUDA_LIBRARIES } from '../engine/addon-files.ts';
import type { Gpu, GpuProbe } from '../engine/gpus.ts';
import type { Addon } from '../engine/native-addon.ts';
import { type Finding, gibibytes, ok, sentence } from './finding.ts';
import type { System } from './system.ts';

function firstOf(loaders: readonly (() => Addon)[]): Addon | null {
  for (const load of loaders) {
    try {
      return load();
    } catch {
      // Reported by the check of that build.
    }
  }
  return null;
}

/** What GPUs there are; null where no build loads that could look. */
export function lookForGpus({ addons }: System): GpuProbe | null {
  return firstOf([addons.cpu, addons.cuda])?.probeGpus() ?? null;
}

function describe(gpu: Gpu): string {
  const free = gpu.freeMemoryBytes === null ? '' : `, ${gibibytes(gpu.freeMemoryBytes)} free`;
  return `${gpu.name}, ${gibibytes(gpu.totalMemoryBytes)}${free}, compute capability ${gpu.computeCapability}`;
}

/** The driver, and one finding for each GPU. */
export function checkGpus(probe: GpuProbe): Finding[] {
  const { driverVersion, cudaVersion, gpus, problem } = probe;
  const versions = [driverVersion === null ? 'driver' : `driver ${driverVersion}`];
  if (cudaVersion !== null) versions.push(`CUDA ${cudaVersion} or earlier`);
  const driver: Finding =
    problem === null
      ? ok('GPU driver', versions.join(', '))
      : { name: 'GPU driver', status: 'absent', ...sentence(problem) };
  const found = gpus.map((gpu): Finding => {
    const name = `cuda:${gpu.index}`;
    return gpu.problem === null
      ? ok(name, describe(gpu))
      : { name, status: 'absent', found: describe(gpu), advice: gpu.problem };
  });
  return [driver, ...found];
}

/** Libraries that the CUDA addon uses, as it finds them: where it loads, with the folder it was built with. */
export function checkCudaLibraries(system: System): Finding[] {
  const addon = firstOf([system.addons.cuda, system.addons.cpu]);
  if (addon === null) return [];
  return CUDA_LIBRARIES.map(({ name, advice }) => {
    const problem = addon.libraryProblem(name);
    if (problem === null) return ok(name, 'can be opened');
    const elsewhere = system.libraryFolders.map((folder) => join(folder, name)).find(existsSync);
    if (elsewhere !== undefined && addon.libraryProblem(elsewhere) === null) return ok(name, elsewhere);
    return { name, status: 'absent', found: problem, advice };
  });
}

/** The addon that is linked with them. */
export function checkCudaAddon({ addons }: System): Finding {
  const name = 'CUDA engine';
  try {
    const { cuda } = addons.cuda().capabilities();
    if (cuda) return ok(name, CUDA_ADDON.name);
    const found = `${CUDA_ADDON.name} was built without CUDA`;
    return { name, status: 'absent', found, advice: `run \`${CUDA_ADDON.build}\`` };
  } catch (error) {
    return { name, status: 'absent', ...sentence(error instanceof Error ? error.message : String(error)) };
  }
}
