/** Brings a fresh clone to the point where anything can run: npm packages. Does nothing where all is current. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ROOT } from './node24.mjs';
import { mustRun } from './run.mjs';

/**
 * Installs the locked npm packages unless that was done for this very lock file. `install`, not `ci`: a registry that lacks
 * the optional packages of other platforms makes a lock file that `ci` refuses.
 */
export async function installPackages() {
  const lock = createHash('sha256')
    .update(readFileSync(join(ROOT, 'package-lock.json')))
    .digest('hex');
  const stamp = join(ROOT, 'node_modules', '.luthier-lock');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return;
  await mustRun(process.platform === 'win32' ? 'npm.cmd' : 'npm', ['install', '--no-save', '--no-audit', '--no-fund'], {
    cwd: ROOT,
  });
  writeFileSync(stamp, lock);
}
