import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const BIN = join(import.meta.dirname, '..', '..', '..', 'bin', 'luthier.mjs');

function luthier(...args: string[]) {
  return spawnSync(process.execPath, [BIN, ...args], { encoding: 'utf8' });
}

test('the command passes its exit code and its streams on', () => {
  const { status, stdout, stderr } = luthier('adapters', 'load');
  expect(stderr).toContain('luthier adapters load is not built yet');
  expect(stdout).toBe('');
  expect(status).toBe(22);
});

test('what follows serve is the server’s to read', () => {
  const help = luthier('serve', '--help');
  expect(help.stdout).toContain('--max-message-bytes');
  expect(help.status).toBe(0);
  const wrong = luthier('serve', '--prot', '1');
  expect(wrong.stderr).toContain('--port');
  expect(wrong.status).toBe(2);
});
