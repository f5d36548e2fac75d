/** The life of one server on a disk: started, used, and ended by its user or by a cut. */
import type { ChildProcess } from 'node:child_process';
import { Client, credentials } from '@grpc/grpc-js';
import { type Method, unary } from '../../clients/typescript/src/call.ts';
import { LuthierClient } from '../../clients/typescript/src/index.ts';
import { type Exit, ServerProcess } from '../e2e/support/server-process.ts';
import { type Disturbance, shimEnvironment } from './shim.ts';
import type { World } from './world.ts';

export interface LifeOptions {
  readonly disturbance?: Omit<Disturbance, 'root'> | undefined;
  /** Milliseconds after the process began; then it is killed. */
  readonly killAfter?: number | undefined;
}

/** How a server ended: `killed` by a cut, `refused` to start, or `stopped` as it was asked to. */
interface Life {
  readonly end: 'killed' | 'refused' | 'stopped';
  /** Its log. */
  readonly output: string;
  /** Milliseconds. */
  readonly lasted: number;
}

/** A connection to a server. */
export interface Connection {
  readonly client: LuthierClient;
  /** A call whose request id its caller chooses where the client chooses one itself. */
  call<Request, Response>(method: Method<Request, Response>, request: Request): Promise<Response>;
}

/** The longest life: a server that answers nothing for so long hangs. */
const LONGEST_MILLISECONDS = 300_000;

/**
 * Starts a server, lets a client use it, and stops it.
 * @throws Error where it ends in any other way than those of `Life`; what `use` throws while the server lives
 */
export async function live(
  world: World,
  use: (connection: Connection) => Promise<void>,
  { disturbance = {}, killAfter }: LifeOptions = {},
): Promise<Life> {
  const began = performance.now();
  let child: ChildProcess | null = null;
  let cutOff = false;
  const kill = (): void => {
    cutOff = true;
    child?.kill('SIGKILL');
  };
  const timer = killAfter === undefined ? undefined : setTimeout(kill, killAfter);
  const ended = (end: Life['end'], output: string): Life => ({ end, output, lasted: performance.now() - began });
  try {
    const started = await ServerProcess.start({
      dataFolder: world.dataFolder,
      env: shimEnvironment({ root: world.disk, ...disturbance }),
      onSpawn: (spawned) => {
        child = spawned;
      },
    }).catch((error: Error) => error);
    if (started instanceof Error) {
      const { signalCode } = child as unknown as ChildProcess;
      return ended(signalCode === 'SIGKILL' ? 'killed' : 'refused', started.message);
    }
    started.client.close();
    await using client = new LuthierClient({ address: started.address, retry: { maxAttempts: 0 } });
    const raw = new Client(started.address, credentials.createInsecure());
    const hung = setTimeout(() => started.signal('SIGABRT'), LONGEST_MILLISECONDS);
    try {
      await use({ client, call: (method, request) => unary(raw, method, request, {}) });
    } catch (error) {
      const exit = await exitSoon(started);
      if (exit?.signal === 'SIGKILL') return ended('killed', exit.output);
      if (exit === null) started.signal('SIGKILL');
      const { output } = exit ?? (await started.exited());
      const how = exit === null ? 'lived' : `ended with ${exit.code ?? exit.signal}`;
      throw new Error(`${(error as Error).message}\nthe server ${how}; its log:\n${output}`, { cause: error });
    } finally {
      clearTimeout(hung);
      raw.close();
    }
    started.signal('SIGTERM');
    const { code, signal, output } = await started.exited();
    if (signal === 'SIGKILL' && (cutOff || disturbance.kill !== undefined)) return ended('killed', output);
    if (code !== 0) throw new Error(`the server ended with ${code ?? signal} when it was stopped:\n${output}`);
    return ended('stopped', output);
  } finally {
    clearTimeout(timer);
  }
}

/** How a server ended, if it has: a client hears of it a moment before or after. */
async function exitSoon(server: ServerProcess): Promise<Exit | null> {
  const { promise, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(() => resolve(null), 2000);
  const exit = await Promise.race([server.exited(), promise]);
  clearTimeout(timer);
  return exit;
}
