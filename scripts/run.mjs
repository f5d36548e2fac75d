/** Starts commands and says which one failed. No dependencies. */
import { spawn } from 'node:child_process';

/**
 * Runs a command with inherited input and output; resolves with its exit code and, where `capture` is set, with what it
 * printed to either stream (which is passed on as well).
 */
export function run(command, args, { env = process.env, cwd = process.cwd(), capture = false } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = capture ? ['ignore', 'pipe', 'pipe'] : 'inherit';
    const child = spawn(command, args, { env, cwd, stdio });
    let output = '';
    if (capture) {
      child.stdout.on('data', (chunk) => {
        output += chunk;
        process.stdout.write(chunk);
      });
      child.stderr.on('data', (chunk) => {
        output += chunk;
        process.stderr.write(chunk);
      });
    }
    child.once('error', (error) =>
      reject(new Error(`cannot start ${command}: ${error.message}. Is it installed and on the PATH?`)),
    );
    child.once('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

/** As `run`, and an error where the command fails. */
export async function mustRun(command, args, options) {
  const result = await run(command, args, options);
  if (result.code !== 0) throw new Error(`${command} ${args.join(' ')} ended with exit code ${result.code}`);
  return result;
}
