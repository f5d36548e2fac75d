/** What the process of `serve` says, and how it ends. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { credentials } from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import {
  GenerateRequest,
  type GenerateResponse,
  GenerationServiceClient,
} from '../../src/gen/luthier/v1/generation_service.ts';

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

const TINY_MODEL = fileURLToPath(new URL('../parity/golden/tied/model', import.meta.url));

/** A process that serves; resolves with its address once it says that it listens. */
async function startProcess(...flags: string[]) {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-main-'));
  const argv = [
    main,
    '--port',
    '0',
    '--data-dir',
    dataDir,
    '--threads',
    '1',
    '--model',
    `tiny=${TINY_MODEL}`,
    ...flags,
  ];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
  const exit = once(child, 'exit') as Promise<[number | null, string | null]>;
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exit;
    rmSync(dataDir, { recursive: true, force: true });
  });
  const lines: string[] = [];
  for await (const line of createInterface(child.stderr)) {
    lines.push(line);
    const { msg, address } = JSON.parse(line) as { msg: string; address?: string };
    if (msg !== 'listening' || address === undefined) continue;
    child.stderr.resume();
    const generation = new GenerationServiceClient(address, credentials.createInsecure());
    onTestFinished(() => generation.close());
    return { child, exit, address, generation };
  }
  throw new Error(`the server ended before it listened: ${lines.join('\n')}`);
}

/** An answer of the real engine that goes on for a while. */
function generateLong(client: GenerationServiceClient) {
  const sampling = { maxNewTokens: 100, ignoreEos: true };
  const prompt = { input: { $case: 'text' as const, value: 'a' } };
  return client.generate(GenerateRequest.create({ model: 'tiny', prompt, sampling }));
}

test('SIGTERM: a generation under way finishes, then the process exits with 0', { timeout: 30_000 }, async () => {
  const { child, exit, generation } = await startProcess();
  const events: GenerateResponse[] = [];
  for await (const event of generateLong(generation) as AsyncIterable<GenerateResponse>) {
    if (events.length === 0) child.kill('SIGTERM');
    events.push(event);
  }
  expect(events.at(-1)?.event).toMatchObject({ $case: 'finished', value: { completionTokens: 100 } });
  expect(await exit).toEqual([0, null]);
});

test('a port that is taken: one line, exit code 1', { timeout: 30_000 }, async () => {
  const { address } = await startProcess();
  const port = address.split(':')[1] ?? '';
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-main-'));
  onTestFinished(() => rmSync(dataDir, { recursive: true, force: true }));
  expect(await serve('--port', port, '--data-dir', dataDir)).toMatchObject({
    code: 1,
    stderr: `luthier: ${address} is taken by another program; stop it or choose another port with --port\n`,
  });
});

test('a GPU that is not there: one line that says what to do, exit code 1', { timeout: 30_000 }, async () => {
  const dataDir = mkdtempSync(join(tmpdir(), 'luthier-main-'));
  onTestFinished(() => rmSync(dataDir, { recursive: true, force: true }));
  const { code, stderr } = await serve('--port', '0', '--data-dir', dataDir, '--device', 'cuda:999');
  expect(code).toBe(1);
  expect(stderr).toMatch(
    /^luthier: the device cuda:999 cannot be used: .*; with --device cpu the processor computes\n$/,
  );
});
