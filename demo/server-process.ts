/** The demo's server: a process of its own, as in real use. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { LuthierClient, LuthierError } from '../clients/typescript/src/index.ts';

/** A running server and the way to it. */
export interface ServerProcess extends AsyncDisposable {
  readonly address: string;
  readonly client: LuthierClient;
}

/** A port that nobody listens on now. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('the system gave no port');
  return address.port;
}

async function stop(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  child.kill('SIGTERM');
  const patience = setTimeout(() => child.kill('SIGKILL'), 20_000);
  await exited;
  clearTimeout(patience);
}

/** Starts `luthier serve` with one model, and waits until it answers. Its log goes to `server.log` in the data folder. */
export async function startServer(
  root: string,
  dataDir: string,
  models: Record<string, string>,
): Promise<ServerProcess> {
  mkdirSync(dataDir, { recursive: true });
  const logFile = join(dataDir, 'server.log');
  const log = openSync(logFile, 'w');
  const port = await freePort();
  const settings = ['--port', String(port), '--data-dir', dataDir, '--log-format', 'text'];
  for (const [name, path] of Object.entries(models)) settings.push('--model', `${name}=${path}`);
  const command = [join(root, 'bin', 'luthier.mjs'), 'serve', ...settings];
  const child = spawn(process.execPath, command, { cwd: root, stdio: ['ignore', log, log] });
  closeSync(log);
  const exited = once(child, 'exit');
  // An interrupt ends the demo; its server must not outlive it.
  const end = () => child.kill('SIGTERM');
  process.once('exit', end);
  const address = `127.0.0.1:${port}`;
  const client = new LuthierClient({ address, retry: { maxAttempts: 200, maxDelayMs: 100 } });
  const dispose = async () => {
    process.off('exit', end);
    client.close();
    if (child.exitCode === null && child.signalCode === null) await stop(child, exited);
  };
  const died = exited.then(([code]) => {
    throw new Error(`the server ended with exit code ${code}; ${logFile} says:\n${readFileSync(logFile, 'utf8')}`);
  });
  died.catch(() => {});
  try {
    await Promise.race([client.getServerInfo(), died]);
  } catch (error) {
    await dispose();
    if (error instanceof LuthierError) throw new Error(`the server did not answer; see ${logFile}`, { cause: error });
    throw error;
  }
  return { address, client, [Symbol.asyncDispose]: dispose };
}
