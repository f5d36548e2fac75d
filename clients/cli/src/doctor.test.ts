/** `luthier doctor` on the machine of the test. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { run } from './program.ts';
import { capturedIo } from './testing/captured-io.ts';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-cli-doctor-'));
afterAll(() => rmSync(scratch, { recursive: true }));
const dataDir = join(scratch, 'data');

async function doctor(...flags: string[]) {
  const io = capturedIo();
  const code = await run(['doctor', '--data-dir', dataDir, ...flags], io);
  return { code, out: io.out(), err: io.err() };
}

test('for people: a line for each thing, what to do below it, the verdict last', async () => {
  const { code, out, err } = await doctor('--device', 'cpu');
  expect({ code, err }).toEqual({ code: 0, err: '' });
  expect(out).toMatch(/^ok {7}node +\d+\.\d+\.\d+$/m);
  expect(out).toMatch(/^ok {7}engine +engine\/binding\/luthier\.node \d+\.\d+\.\d+$/m);
  expect(out).toMatch(/^(ok|absent) +libcublasLt\.so\.13 /m);
  expect(out).toMatch(/^ok {7}device +cpu \(--device cpu\): asked for by the setting$/m);
  expect(out).toMatch(/\n\nA server can start, on cpu\.\n$/);
  expect(existsSync(dataDir)).toBe(false);
});

test('--json: one object', async () => {
  const { code, out } = await doctor('--device', 'cpu', '--json');
  expect(code).toBe(0);
  expect(out.trimEnd()).not.toContain('\n');
  expect(JSON.parse(out)).toMatchObject({ canStart: true, device: 'cpu', findings: expect.any(Array) });
});

test('a device that cannot be had: exit code 19', async () => {
  const { code, out } = await doctor('--device', 'cuda:999');
  expect(code).toBe(19);
  expect(out).toMatch(/^failure {2}device +the device cuda:999 cannot be used: .*\n +with --device cpu/m);
  expect(out).toContain('A server cannot start here.');
});
