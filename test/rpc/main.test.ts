/** What `serve` says and how it exits where no server is to be started. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

const run = promisify(execFile);
const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

async function serve(...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  try {
    return { code: 0, ...(await run(process.execPath, [main, ...argv])) };
  } catch (error) {
    return error as { code: number; stdout: string; stderr: string };
  }
}

test('--help and --version go to standard output', async () => {
  const help = await serve('--help');
  expect(help).toMatchObject({ code: 0, stderr: '' });
  expect(help.stdout).toContain('--model-root FOLDER');
  expect((await serve('--version')).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
});

test('a wrong setting is one line on standard error and exit code 2', async () => {
  expect(await serve('--prot', '1')).toMatchObject({
    code: 2,
    stdout: '',
    stderr: 'luthier: unknown option --prot; did you mean --port?\n',
  });
  const exposed = await serve('--host', '0.0.0.0');
  expect(exposed.code).toBe(2);
  expect(exposed.stderr).toMatch(/^luthier: --host: 0\.0\.0\.0 can be reached from other machines/);
});
