import { enableCompileCache, flushCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

/**
 * Keeps what Node makes of the source files (types stripped, compiled) in the user's cache folder: from the second start on the server is up
 * in half the time and needs some 30 MB less, since nothing has to be stripped. A folder of the user's own, because whoever can
 * write there decides what runs. Before the modules are loaded; failing to write is no failure.
 */
export function useCompileCache(env: NodeJS.ProcessEnv): void {
  const folder = env.XDG_CACHE_HOME ?? join(homedir(), '.cache');
  // Older versions of Node lack it.
  enableCompileCache?.(env.NODE_COMPILE_CACHE ?? join(folder, 'luthier', 'compile-cache'));
}

/** Writes it now: a server that is killed would never do so. */
export function saveCompileCache(): void {
  flushCompileCache?.();
}
