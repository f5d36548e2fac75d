/** A server process as a user starts it, with a data folder of its own, and the time until it answers. */
import { rmSync } from 'node:fs';
import { LuthierClient } from '../../../clients/typescript/src/index.ts';
import { finished, luthier, temporaryFolder } from '../../e2e/support/server-process.ts';
import { tie } from './children.ts';

export interface ServerOptions {
  readonly threads: number;
  /** Path of the model `models/bench`; left out: none. */
  readonly model?: string;
  readonly env?: NodeJS.ProcessEnv;
}

/** The name under which a server has the model. */
export const MODEL_NAME = 'models/bench';

export interface Server extends AsyncDisposable {
  readonly address: string;
  readonly pid: number;
  readonly client: LuthierClient;
  /** From the start of the process to its first answer to a client. */
  readonly startSeconds: number;
}

/** A server that does not end when it is asked to is killed after this time. */
const PATIENCE_MILLISECONDS = 20_000;

/** Starts a server and waits for its answer to GetServerInfo. */
export async function startServer({ threads, model, env = {} }: ServerOptions): Promise<Server> {
  const dataFolder = temporaryFolder();
  const flags = ['--port', '0', '--data-dir', dataFolder, '--threads', String(threads), '--log-format', 'json'];
  if (model !== undefined) flags.push('--model', `${MODEL_NAME.slice('models/'.length)}=${model}`);
  const began = performance.now();
  const child = luthier(['serve', ...flags], env);
  tie(child);
  const exit = finished(child);
  const stop = async () => {
    const patience = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MILLISECONDS);
    child.kill('SIGTERM');
    await exit;
    clearTimeout(patience);
    rmSync(dataFolder, { recursive: true, force: true });
  };
  const listening = new Promise<string>((resolve) => {
    let seen = '';
    const look = (chunk: Buffer) => {
      seen += chunk;
      const address = /"address":"([^"]+)"[^\n]*"msg":"listening"/.exec(seen)?.[1];
      if (address === undefined) return;
      child.stderr?.off('data', look);
      resolve(address);
    };
    child.stderr?.on('data', look);
  });
  const ended = exit.then(({ code, signal, output }) => {
    throw new Error(`the server ended with ${code ?? signal} before it answered:\n${output}`);
  });
  ended.catch(() => {});
  const address = await Promise.race([listening, ended]);
  const client = new LuthierClient({ address });
  const dispose = async () => {
    client.close();
    await stop();
  };
  try {
    await Promise.race([client.getServerInfo(), ended]);
  } catch (error) {
    await dispose();
    throw error;
  }
  const startSeconds = (performance.now() - began) / 1000;
  return { address, pid: child.pid ?? 0, client, startSeconds, [Symbol.asyncDispose]: dispose };
}
