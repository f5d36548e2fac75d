import { fileURLToPath } from 'node:url';
import { saveCompileCache, useCompileCache } from './compile-cache.ts';
import { ConfigError } from './config/errors.ts';
import { loadConfig } from './config/load.ts';
import type { ServerOptions } from './config/schema.ts';
import { ServerStartError } from './errors/server-start-error.ts';
import { packageVersion } from './version.ts';

/** Exit codes of `serve`. */
const EXIT = { ok: 0, cannotStart: 1, usage: 2 } as const;

/** The shell's convention: 128 + the signal's number. */
const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;

/** A signal that comes so soon after the first is the same one, passed on by a parent process as well (npm, a shell). */
const REPEAT_MILLISECONDS = 300;

/** Resolves with the first signal. A second one ends the process at once. */
function firstSignal(): Promise<string> {
  const { promise, resolve } = Promise.withResolvers<string>();
  let received: number | null = null;
  for (const [signal, code] of Object.entries(SIGNALS)) {
    process.on(signal, () => {
      if (received !== null && performance.now() - received > REPEAT_MILLISECONDS) process.exit(code);
      received ??= performance.now();
      resolve(signal);
    });
  }
  return promise;
}

async function run(options: ServerOptions, env: NodeJS.ProcessEnv): Promise<void> {
  const signal = firstSignal();
  useCompileCache(env);
  // Loaded here: `--help` and a wrong option answer without it.
  const { createServer } = await import('./server.ts');
  const server = await createServer(options);
  try {
    await server.start();
    saveCompileCache();
    await server.drain(await signal);
  } finally {
    await server.close();
  }
}

/**
 * `luthier serve`: serves until SIGTERM or SIGINT.
 * @returns The exit code.
 */
export async function serve(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  try {
    const command = loadConfig(argv, env);
    if (command.kind === 'serve') await run(command.options, env);
    else process.stdout.write(command.kind === 'help' ? command.text : `${packageVersion()}\n`);
    return EXIT.ok;
  } catch (error) {
    if (!(error instanceof ConfigError || error instanceof ServerStartError)) throw error;
    process.stderr.write(`luthier: ${error.message}\n`);
    return error instanceof ConfigError ? EXIT.usage : EXIT.cannotStart;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(await serve(process.argv.slice(2), process.env));
