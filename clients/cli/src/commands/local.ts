/** Commands that are no client of a server: the server itself, and the demo. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import type { Io } from '../io.ts';
import type { SetExitCode } from './set-exit-code.ts';

/** `luthier serve`: everything behind it is the server's to read, `--help` as well. */
export function serveCommand(io: Io, setExitCode: SetExitCode): Command {
  return new Command('serve')
    .description('run a server in the foreground; `luthier serve --help` lists its settings')
    .helpOption(false)
    .allowUnknownOption()
    .argument('[settings...]')
    .action(async (settings: string[]) => {
      const { serve } = await import('../../../../src/main.ts');
      setExitCode(await serve(settings, { ...io.env }));
    });
}

/** `luthier demo`. */
export function demoCommand(setExitCode: SetExitCode): Command {
  return new Command('demo')
    .description('fetch a small model, teach it facts, and ask it before and after')
    .action(async () => {
      const script = fileURLToPath(new URL('../../../../scripts/demo.mjs', import.meta.url));
      const child = spawn(process.execPath, [script], { stdio: 'inherit' });
      setExitCode(await new Promise<number>((resolve) => child.once('close', (code) => resolve(code ?? 1))));
    });
}
