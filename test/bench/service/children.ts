/**
 * Child processes that never outlive the program: it kills what is left when it ends, and a program that it started ends by itself
 * when its standard input does, so that even a killed parent leaves none behind.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const alive = new Set<ChildProcess>();

/** Has a child process killed when this one ends. */
export function tie(child: ChildProcess): void {
  alive.add(child);
  child.once('close', () => alive.delete(child));
}

/** Kills every child process that is left; may be called as the process ends. */
export function killChildren(): void {
  for (const child of alive) child.kill('SIGKILL');
}

/** A program of this folder in a process of its own. It reports in lines of JSON on standard output. */
export interface Program<Report> {
  readonly pid: number;
  /** What it reports, until it ends; throws where it failed. May be iterated once. */
  readonly reports: AsyncIterable<Report>;
  /** Gives the program the word that it waits for with `parentsWord`. */
  tell(): void;
}

/** Starts a program. Its standard error is this process's. */
export function startProgram<Report>(file: URL, args: readonly string[], env: NodeJS.ProcessEnv = {}): Program<Report> {
  const path = fileURLToPath(file);
  const child = spawn(process.execPath, [path, ...args], {
    env: { ...process.env, ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  tie(child);
  // A program that has ended reads nothing more; how it ended is told below.
  child.stdin.on('error', () => {});
  const ended = new Promise<string>((resolve) => {
    child.once('error', ({ message }) => resolve(message));
    child.once('close', (code, signal) => resolve(code === 0 ? '' : `it ended with ${code ?? signal}`));
  });
  async function* reports(): AsyncGenerator<Report> {
    for await (const line of createInterface({ input: child.stdout })) yield JSON.parse(line) as Report;
    const failure = await ended;
    if (failure !== '') throw new Error(`${path}: ${failure}`);
  }
  return { pid: child.pid ?? 0, reports: reports(), tell: () => void child.stdin.write('\n') };
}

/** In a program: reports to its parent. */
export function report(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** In a program: ends it with its parent. */
export function followParent(): { readonly parentsWord: Promise<void>; readonly leave: () => void } {
  const word = Promise.withResolvers<void>();
  process.stdin.on('data', () => word.resolve());
  process.stdin.on('end', () => process.exit(1));
  // From here on the process ends when its work is done.
  const leave = () => void process.stdin.destroy();
  return { parentsWord: word.promise, leave };
}
