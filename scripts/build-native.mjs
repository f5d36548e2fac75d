/** `npm run build`: compiles the engine's addon and puts it where the server loads it from. Cargo does nothing where all is current. */
import { copyFileSync, existsSync, renameSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { childEnvironment, ROOT } from './node24.mjs';
import { mustRun } from './run.mjs';

const LIBRARY =
  { darwin: 'libluthier_binding.dylib', win32: 'luthier_binding.dll' }[process.platform] ?? 'libluthier_binding.so';

/** Compiles the addon with cargo's `flags` and puts it under a name in engine/binding; returns its path. */
export async function buildAddon(name, flags, env) {
  await mustRun('cargo', ['build', '--release', '--package', 'luthier-binding', ...flags], { cwd: ROOT, env });
  const built = resolve(ROOT, env.CARGO_TARGET_DIR ?? 'target', 'release', LIBRARY);
  const addon = join(ROOT, 'engine', 'binding', name);
  if (existsSync(addon) && statSync(addon).mtimeMs >= statSync(built).mtimeMs) return addon;
  // A server that runs keeps the file it has mapped: the new one takes its name, not its place.
  copyFileSync(built, `${addon}.new`);
  renameSync(`${addon}.new`, addon);
  return addon;
}

/** Builds the processor's addon and returns its path. */
export function buildNative() {
  return buildAddon('luthier.node', [], childEnvironment());
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildNative();
