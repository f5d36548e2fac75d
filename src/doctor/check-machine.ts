/** Node, the processor's engine, the processor and the memory. */
import { availableParallelism } from 'node:os';
import { CPU_ADDON } from '../engine/addon-files.ts';
import type { EngineInfo } from '../engine/engine.ts';
import { type Finding, gibibytes, ok, sentence } from './finding.ts';
import type { System } from './system.ts';

/** Below this a model of some hundred million parameters cannot be trained. */
const LITTLE_MEMORY = 2 * 2 ** 30;

/** The Node that runs this. */
export function checkNode({ nodeVersion, nodeIsSupported }: System): Finding {
  if (nodeIsSupported) return ok('node', nodeVersion);
  return { name: 'node', status: 'failure', found: `${nodeVersion} is too old`, advice: 'install Node 22.13 or later' };
}

/** The addon that computes on the processor, and what it says of the processor. `needed`: nothing else computes. */
export async function checkProcessor({ addons }: System, needed: boolean): Promise<Finding[]> {
  let info: Pick<EngineInfo, 'version' | 'deviceName' | 'instructionSet'>;
  try {
    const { NativeEngine } = addons.cpu();
    const engine = new NativeEngine(1, 'cpu', 'bf16');
    info = engine.info();
    await engine.close();
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    return [{ name: 'engine', status: needed ? 'failure' : 'absent', ...sentence(problem) }];
  }
  const processor = `${info.deviceName}, ${availableParallelism()} threads, ${info.instructionSet}`;
  return [
    ok('engine', `${CPU_ADDON.name} ${info.version}`),
    info.instructionSet === 'scalar'
      ? {
          name: 'processor',
          status: 'warning',
          found: processor,
          advice: 'matrix products are slow here: use a processor with AVX2 or AVX-512',
        }
      : ok('processor', processor),
  ];
}

/** The memory this process may use. */
export function checkMemory({ memory }: System): Finding {
  const found = `${gibibytes(memory.availableBytes)} of ${gibibytes(memory.totalBytes)} available`;
  if (memory.availableBytes >= LITTLE_MEMORY) return ok('memory', found);
  const advice = 'models may not fit: end other programs, or raise the limit of the container';
  return { name: 'memory', status: 'warning', found, advice };
}
