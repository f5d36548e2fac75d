/**
 * `npm test`: sets up, fetches the tests' model, builds, runs every suite and adds up their counts into one closing line. With paths, as
 * `npm run test:models`: the TypeScript tests there alone.
 */
import { stripVTControlCharacters } from 'node:util';
import { buildNative } from './build-native.mjs';
import { childEnvironment, ROOT } from './node24.mjs';
import { run } from './run.mjs';
import { installPackages } from './setup.mjs';
import { fetchSmolLm2 } from './smollm2.mjs';

/** Counts of `cargo test`: one result line per test binary. */
export function cargoCounts(output) {
  let passed = 0;
  let failed = 0;
  for (const match of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed;/gm)) {
    passed += Number(match[1]);
    failed += Number(match[2]);
  }
  return { passed, failed };
}

/** Counts of vitest's closing `Tests` line, with or without colours. */
export function vitestCounts(output) {
  const plain = stripVTControlCharacters(output);
  const line = plain.match(/^\s*Tests\s+(.*)$/m)?.[1] ?? '';
  return {
    passed: Number(line.match(/(\d+) passed/)?.[1] ?? 0),
    failed: Number(line.match(/(\d+) failed/)?.[1] ?? 0),
  };
}

await installPackages();
await buildNative();
const env = childEnvironment({ LUTHIER_TEST_GGUF: await fetchSmolLm2() });
const paths = process.argv.slice(2);
const rust = { name: 'rust', command: 'cargo', args: ['test', '--release'], count: cargoCounts };
const typescript = { name: 'typescript', command: 'vitest', args: ['run', ...paths], count: vitestCounts };
const suites = paths.length === 0 ? [rust, typescript] : [typescript];
let passed = 0;
let failed = 0;
for (const suite of suites) {
  const result = await run(suite.command, suite.args, { cwd: ROOT, env, capture: true });
  const counts = suite.count(result.output);
  passed += counts.passed;
  // A suite that died without counting (a compile error, a crash) is a failure of its own.
  failed += result.code !== 0 && counts.failed === 0 ? 1 : counts.failed;
  if (result.code === 0 && counts.passed === 0) {
    console.error(`suite ${suite.name}: ended well, but no test was counted`);
    failed += 1;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
