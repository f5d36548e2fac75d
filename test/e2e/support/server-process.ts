/** A real server process on a free port, with a data folder of its own unless one is given. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LuthierClient } from '../../../clients/typescript/src/index.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** The tiny model of the golden files: a real Llama, small enough to train within a second. */
export const TINY_MODEL = join(root, 'test/parity/golden/tied/model');
export const TINY_ADAPTER = join(root, 'test/parity/golden/tied/init_adapter');
export const OTHER_MODEL = join(root, 'test/parity/golden/untied/model');

export interface StartOptions {
  readonly dataFolder?: string;
  /** More flags of `luthier serve`. */
  readonly flags?: readonly string[];
  /** More of its environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** Told of its process before it listens. */
  readonly onSpawn?: (child: ChildProcess) => void;
}

/** Ends as it ends: code or signal, and everything it printed. */
export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly output: string;
}

const scratch: string[] = [];

/** A folder that is gone after the tests. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-e2e-'));
  scratch.push(folder);
  return folder;
}

export function removeTemporaryFolders(): void {
  for (const folder of scratch.splice(0)) rmSync(folder, { recursive: true, force: true });
}

/** Runs `luthier` with arguments. */
export function luthier(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  return spawn(process.execPath, [join(root, 'bin/luthier.mjs'), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Waits for a process's end. */
export function finished(child: ChildProcess): Promise<Exit & { readonly stdout: string }> {
  let output = '';
  let stdout = '';
  child.stdout?.on('data', (chunk) => {
    stdout += chunk;
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output += chunk;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code, signal, output, stdout }));
  });
}

export class ServerProcess {
  readonly address: string;
  readonly dataFolder: string;
  readonly client: LuthierClient;
  readonly #child: ChildProcess;
  readonly #exit: Promise<Exit>;

  private constructor(address: string, dataFolder: string, child: ChildProcess, exit: Promise<Exit>) {
    this.address = address;
    this.dataFolder = dataFolder;
    this.client = new LuthierClient({ address });
    this.#child = child;
    this.#exit = exit;
  }

  /** Resolves once the server listens; rejects with its output where it ends before. */
  static async start(options: StartOptions = {}): Promise<ServerProcess> {
    const dataFolder = options.dataFolder ?? temporaryFolder();
    const flags = ['--port', '0', '--data-dir', dataFolder, '--log-format', 'json', '--threads', '2'];
    const roots = ['--model-root', join(root, 'test/parity/golden'), '--export-root', tmpdir()];
    const child = luthier(
      ['serve', ...flags, ...roots, '--model', `tiny=${TINY_MODEL}`, ...(options.flags ?? [])],
      options.env,
    );
    options.onSpawn?.(child);
    const exit = finished(child);
    const listening = new Promise<string>((resolve) => {
      let seen = '';
      child.stderr?.on('data', (chunk) => {
        seen += chunk;
        const address = /"address":"([^"]+)"[^\n]*"msg":"listening"/.exec(seen)?.[1];
        if (address !== undefined) resolve(address);
      });
    });
    const address = await Promise.race([
      listening,
      exit.then(({ code, output }) => {
        throw new Error(`the server ended with ${code} before it listened:\n${output}`);
      }),
    ]);
    return new ServerProcess(address, dataFolder, child, exit);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  exited(): Promise<Exit> {
    return this.#exit;
  }

  /** Ends it in good order. */
  async stop(): Promise<Exit> {
    this.client.close();
    this.signal('SIGTERM');
    return this.exited();
  }

  /** Ends it as a power cut would. */
  async kill(): Promise<void> {
    this.signal('SIGKILL');
    await this.exited();
    this.client.close();
  }
}
