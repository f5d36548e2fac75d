/** `npm run chaos`: cuts servers off in every way and checks that nothing was lost or doubled. Arguments go to `test/chaos/main.ts`. */
import { join } from 'node:path';
import { buildNative } from './build-native.mjs';
import { childEnvironment, findNode, ROOT } from './node24.mjs';
import { run } from './run.mjs';
import { installPackages } from './setup.mjs';

await installPackages();
await buildNative();
const options = { cwd: ROOT, env: childEnvironment() };
const { code } = await run(findNode(), [join(ROOT, 'test', 'chaos', 'main.ts'), ...process.argv.slice(2)], options);
process.exitCode = code;
