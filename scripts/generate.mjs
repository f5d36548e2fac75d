/**
 * `npm run generate`: writes the code generated from `proto/` (both copies) and the descriptors that reflection serves.
 * `--check` writes them elsewhere and fails where the committed ones differ.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { childEnvironment, ROOT } from './node24.mjs';
import { mustRun } from './run.mjs';
import { installPackages } from './setup.mjs';

const OUTPUTS = ['src/gen', 'clients/typescript/src/gen'];

async function generate(root) {
  const options = { cwd: root, env: childEnvironment() };
  await mustRun('buf', ['generate'], options);
  await mustRun('buf', ['build', '--exclude-source-info', '-o', 'src/gen/descriptors.binpb'], options);
}

/** Every file below a folder, with its contents. */
function contents(folder) {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    entries.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length), readFileSync(path, 'base64')];
    }),
  );
}

await installPackages();
if (process.argv.includes('--check')) {
  const scratch = mkdtempSync(join(tmpdir(), 'luthier-generate-'));
  try {
    for (const name of ['proto', 'buf.yaml', 'buf.gen.yaml']) {
      cpSync(join(ROOT, name), join(scratch, name), { recursive: true });
    }
    await generate(scratch);
    for (const output of OUTPUTS) {
      const [now, fresh] = [contents(join(ROOT, output)), contents(join(scratch, output))];
      const stale = [...new Set([...now.keys(), ...fresh.keys()])].filter((name) => now.get(name) !== fresh.get(name));
      if (stale.length > 0) {
        throw new Error(`${output} is not what proto/ generates (${stale.join(', ')}); run: npm run generate`);
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
} else {
  await generate(ROOT);
}
