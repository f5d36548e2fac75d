/** `luthier doctor`: everything that decides whether and how the server starts, with the server's own settings. */
import type { ServerOptions } from '../config/schema.ts';
import { chooseDevice } from '../engine/choose-device.ts';
import { EngineError } from '../engine/errors.ts';
import type { GpuProbe } from '../engine/gpus.ts';
import { checkDataFolder } from './check-data-folder.ts';
import { checkCudaAddon, checkCudaLibraries, checkGpus, lookForGpus } from './check-gpus.ts';
import { checkMemory, checkNode, checkProcessor } from './check-machine.ts';
import { type Finding, ok, sentence } from './finding.ts';
import type { System } from './system.ts';

/** What was found. */
export interface Report {
  /** False where a finding is a failure. */
  readonly canStart: boolean;
  /** As `Devices`; null where it cannot start. */
  readonly device: string | null;
  readonly findings: readonly Finding[];
  /** Null where no addon loads: nothing could look. */
  readonly gpus: GpuProbe | null;
}

/** The device that the server would take. */
function checkDevice(wanted: ServerOptions['device'], system: System): [Finding, string | null] {
  const name = 'device';
  try {
    const { device, reason } = chooseDevice(wanted, system.addons);
    return [ok(name, `${device} (--device ${wanted}): ${reason}`), device];
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    return [{ name, status: 'failure', ...sentence(error.message) }, null];
  }
}

/** Looks at everything; changes nothing. */
export async function examine(options: Pick<ServerOptions, 'dataDir' | 'device'>, system: System): Promise<Report> {
  const gpus = lookForGpus(system);
  const [deviceFinding, device] = checkDevice(options.device, system);
  const findings = [
    checkNode(system),
    ...(await checkProcessor(system, device === null || device.startsWith('cpu'))),
    checkMemory(system),
    await checkDataFolder(options.dataDir),
    ...(gpus === null ? [] : checkGpus(gpus)),
    ...checkCudaLibraries(system),
    checkCudaAddon(system),
    deviceFinding,
  ];
  const canStart = findings.every(({ status }) => status !== 'failure');
  return { canStart, device: canStart ? device : null, findings, gpus };
}
