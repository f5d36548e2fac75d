/** `npm run check`: every static check, in the order of their speed; stops at the first that fails. */
import { childEnvironment, ROOT } from './node24.mjs';
import { mustRun } from './run.mjs';
import { installPackages } from './setup.mjs';

await installPackages();
const options = { cwd: ROOT, env: childEnvironment() };
const checks = [
  ['biome', 'check', '--error-on-warnings', '.'],
  ['tsc', '--noEmit'],
  ['knip'],
  ['buf', 'lint'],
  ['buf', 'format', '--diff', '--exit-code'],
  ['buf', 'breaking', '--against', 'proto/baseline.binpb'],
  ['node', 'scripts/generate.mjs', '--check'],
  ['cargo', 'fmt', '--check'],
  ['cargo', 'clippy', '--release', '--all-targets', '--', '-D', 'warnings'],
];
for (const [command, ...args] of checks) {
  console.log(`check: ${command} ${args.join(' ')}`);
  await mustRun(command, args, options);
}
