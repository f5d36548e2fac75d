/** A server inside this process, for commands on a machine where none runs. */
import { homedir } from 'node:os';
import { parse } from 'node:path';
import { Status } from '../../typescript/src/index.ts';
import type { ConnectionOptions } from './connection.ts';
import { CliError, EXIT, exitCodeOf } from './failure.ts';
import type { Io } from './io.ts';

/** A server that was started here. */
interface EmbeddedServer {
  readonly address: string;
  close(): Promise<void>;
}

/** Names of errors that a server ends its start with; their classes belong to modules that are not loaded yet. */
const START_ERRORS = new Set(['ServerStartError', 'LuthierError', 'EngineError']);

/** The server's settings: those of `luthier serve`, from the same environment. */
function settings(options: ConnectionOptions, io: Io): string[] {
  // Whoever runs this process may read and write the same files without it.
  const root = parse(homedir()).root;
  const flags = [
    '--host',
    '127.0.0.1',
    '--port',
    '0',
    '--model-root',
    root,
    '--export-root',
    root,
    '--log-format',
    'text',
  ];
  if (io.env.LUTHIER_LOG_LEVEL === undefined) flags.push('--log-level', 'error');
  if (options.dataDir !== undefined) flags.push('--data-dir', options.dataDir);
  if (options.device !== undefined) flags.push('--device', options.device);
  if (options.threads !== undefined) flags.push('--threads', String(options.threads));
  return flags;
}

/** What the server says about its settings or its data folder, for the person who typed the command. */
function startFailure(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  if (error.name === 'ConfigError') return new CliError(error.message, EXIT.usage);
  if (!START_ERRORS.has(error.name)) return error;
  const hint = 'If a server is running already, name it with --server or LUTHIER_SERVER.';
  return new CliError(
    `a server could not be started in this process: ${error.message}. ${hint}`,
    exitCodeOf(Status.FAILED_PRECONDITION),
  );
}

/** Starts a server on a free loopback port. The modules are loaded only here: a client of another server needs none of them. */
export async function startEmbedded(options: ConnectionOptions, io: Io): Promise<EmbeddedServer> {
  try {
    const [{ loadConfig }, { createServer }] = await Promise.all([
      import('../../../src/config/load.ts'),
      import('../../../src/server.ts'),
    ]);
    const command = loadConfig(settings(options, io), { ...io.env });
    if (command.kind !== 'serve') throw new Error(`the settings of a server ask for ${command.kind}`);
    const server = await createServer(command.options);
    const { address } = await server.start();
    return { address, close: () => server.close() };
  } catch (error) {
    throw startFailure(error);
  }
}
