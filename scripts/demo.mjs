/** `npm run demo`: sets up, builds, fetches the model, then runs the demo on the product's Node. */
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { childEnvironment, findNode, ROOT } from './node24.mjs';
import { run } from './run.mjs';
import { installPackages } from './setup.mjs';
import { fetchSmolLm2 } from './smollm2.mjs';

try {
  console.log('demo: npm packages');
  await installPackages();
  console.log('demo: the engine (the first build takes a few minutes)');
  await buildNative();
  console.log('demo: SmolLM2-135M-Instruct (98 MB, once)');
  const model = await fetchSmolLm2();
  const { code } = await run(findNode(), [join(ROOT, 'demo', 'run.ts'), model], { cwd: ROOT, env: childEnvironment() });
  process.exitCode = code;
} catch (error) {
  console.error(`demo: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
