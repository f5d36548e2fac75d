/** How a command reaches a server: one that is named, or one started in this process. */
import { type Command, InvalidArgumentError } from 'commander';
import { LuthierClient } from '../../typescript/src/index.ts';
import { startEmbedded } from './embedded.ts';
import { CliError } from './failure.ts';
import { type Io, print, printLine } from './io.ts';
import { toCanonicalJson } from './json.ts';

/** Options that every command of a server has. */
export interface ConnectionOptions {
  readonly server?: string;
  readonly embedded?: boolean;
  readonly dataDir?: string;
  readonly device?: string;
  readonly threads?: number;
  readonly timeout?: number;
  readonly json?: boolean;
}

/** What a command works with. */
export interface Session {
  readonly client: LuthierClient;
  readonly io: Io;
  /** One JSON object a line instead of text. */
  readonly json: boolean;
  /** The server lives in this process and ends with it. */
  readonly embedded: boolean;
  /** Options that reach the same server from another terminal. */
  readonly reconnect: string;
}

/** A command-line value that is a number of at least `least`. */
export function numberOption(least: number, whole = false): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && value >= least && (!whole || Number.isInteger(value)))
      return value;
    throw new InvalidArgumentError(`expected ${whole ? 'a whole number' : 'a number'} of at least ${least}`);
  };
}

/** Adds the options of every command that talks to a server. */
export function withConnection(command: Command): Command {
  return command
    .option(
      '--server <host:port>',
      'server to use (or LUTHIER_SERVER); without one, a server is started in this process',
    )
    .option('--embedded', 'start a server in this process even where LUTHIER_SERVER is set')
    .option('--data-dir <folder>', 'data folder of a server in this process')
    .option('--device <device>', 'device of a server in this process: auto, cpu, cuda or cuda:N')
    .option('--threads <n>', 'threads of a server in this process', numberOption(1, true))
    .option('--timeout <seconds>', 'longest wait for each single answer', numberOption(0.001))
    .option('--json', 'print one JSON object a line');
}

/** Connects, runs, and closes whatever was opened. */
export async function withSession<T>(
  io: Io,
  options: ConnectionOptions,
  work: (session: Session) => Promise<T>,
): Promise<T> {
  if (options.server !== undefined && options.embedded === true) {
    throw new CliError('--server and --embedded exclude each other');
  }
  const named = options.embedded === true ? '' : (options.server ?? io.env.LUTHIER_SERVER ?? '');
  const json = options.json === true;
  const timeout = options.timeout === undefined ? {} : { timeoutMs: options.timeout * 1000 };
  if (named !== '') {
    for (const name of ['dataDir', 'device', 'threads'] as const) {
      if (options[name] === undefined) continue;
      const flag = name === 'dataDir' ? 'data-dir' : name;
      throw new CliError(`--${flag} belongs to a server in this process; the one at ${named} has its own settings`);
    }
    // A person at a terminal wants to hear soon that nobody is there.
    const client = new LuthierClient({ address: named, retry: { maxAttempts: 3 }, ...timeout });
    try {
      return await work({ client, io, json, embedded: false, reconnect: `--server ${named}` });
    } finally {
      client.close();
    }
  }
  const server = await startEmbedded(options, io);
  const client = new LuthierClient({ address: server.address, ...timeout });
  const dataDir = options.dataDir === undefined ? '' : `--data-dir ${options.dataDir}`;
  try {
    return await work({ client, io, json, embedded: true, reconnect: dataDir });
  } finally {
    client.close();
    await server.close();
  }
}

/** Prints one message as JSON on a line of its own: canonical proto3 JSON with zero values written out. */
export function printJson<T>(session: Session, type: { toJSON(message: T): unknown }, message: T): Promise<void> {
  return printLine(session.io.stdout, JSON.stringify(toCanonicalJson(type, message)));
}

/** Prints lines of text. */
export function printLines(session: Session, lines: readonly string[]): Promise<void> {
  return print(session.io.stdout, lines.map((line) => `${line}\n`).join(''));
}
