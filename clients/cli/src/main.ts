/** Entry of the command line: `bin/luthier.mjs` runs this on a Node that can. */
import { run } from './program.ts';

// A reader that goes away, as in `luthier jobs list | head -1`, is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

const { stdin, stdout, stderr, env } = process;
process.exitCode = await run(process.argv.slice(2), { stdin, stdout, stderr, env });
