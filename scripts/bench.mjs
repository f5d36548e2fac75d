/**
 * `npm run bench`: the engine beside its peers, then the service beside the engine, then encoders. Prints one JSON line per run and per comparison.
 *
 * The peers need PyTorch, transformers, PEFT and llama-cpp-python in the Python named by `LUTHIER_BENCH_PYTHON` (default: python3); one that
 * is missing is named and left out. Arguments go to `test/bench/engine.py`.
 */
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { childEnvironment, findNode, ROOT } from './node24.mjs';
import { mustRun } from './run.mjs';
import { installPackages } from './setup.mjs';
import { fetchSmolLm2 } from './smollm2.mjs';

await installPackages();
await buildNative();
const options = { cwd: ROOT, env: childEnvironment() };
await mustRun('cargo', ['build', '--release', '--package', 'luthier-core', '--examples'], options);
const model = await fetchSmolLm2();
const python = process.env.LUTHIER_BENCH_PYTHON ?? 'python3';
const bench = (name) => join(ROOT, 'test', 'bench', name);
await mustRun(python, [bench('engine.py'), '--model', model, ...process.argv.slice(2)], options);
await mustRun(findNode(), [bench('service.ts')], options);
await mustRun(findNode(), [bench('encode.ts'), '--model', model], options);
