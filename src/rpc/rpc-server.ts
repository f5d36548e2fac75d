import { logVerbosity, Server, ServerCredentials, setLogVerbosity } from '@grpc/grpc-js';
import { HealthService } from '../gen/grpc/health/v1/health.ts';
import { ServerReflectionService } from '../gen/grpc/reflection/v1/reflection.ts';
import { ActiveCalls, type CallRecord } from './active-calls.ts';
import { addService, type HandlersOf, type ServiceOptions, type Transport } from './adapter.ts';
import { Health } from './health.ts';
import { createReflection, V1_ALPHA } from './reflection.ts';

export interface RpcServerOptions {
  /** Largest message the server accepts, bytes. */
  readonly maxReceiveBytes: number;
  readonly onCallEnd: (record: CallRecord) => void;
  /** How long a client of a resumable stream may read nothing. Default 5 minutes. */
  readonly stallMilliseconds?: number;
}

const STALL_MILLISECONDS = 5 * 60_000;

/** Every 2 minutes a silent connection is asked whether it still lives; a dead one ends its calls 20 seconds later. */
const KEEPALIVE_MILLISECONDS = 120_000;
const KEEPALIVE_TIMEOUT_MILLISECONDS = 20_000;

/**
 * A message up to twice the limit is read, so that its refusal can carry details; grpc-js cuts larger ones off with a bare
 * RESOURCE_EXHAUSTED as soon as it has seen their length.
 */
const MAX_INT32 = 2 ** 31 - 1;

/** grpc-js's own shutdown may never call back; after this time connections are cut. */
const SHUTDOWN_MILLISECONDS = 1000;

const serviceName = (definition: object): string => {
  const [method] = Object.values(definition) as { readonly path: string }[];
  return method?.path.split('/')[1] ?? '';
};

/** The gRPC server: services, health, reflection, and an orderly end. */
export class RpcServer {
  readonly #server: Server;
  readonly #calls: ActiveCalls;
  readonly #transport: Transport;
  readonly #services: string[] = [];
  #health: Health | null = null;

  constructor(options: RpcServerOptions) {
    // What goes wrong is thrown here or travels as a status; grpc-js would print it once more.
    if (process.env.GRPC_VERBOSITY === undefined) setLogVerbosity(logVerbosity.NONE);
    this.#server = new Server({
      'grpc.max_receive_message_length': Math.min(2 * options.maxReceiveBytes, MAX_INT32),
      'grpc.keepalive_time_ms': KEEPALIVE_MILLISECONDS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MILLISECONDS,
    });
    this.#calls = new ActiveCalls(options.onCallEnd);
    const { maxReceiveBytes, stallMilliseconds = STALL_MILLISECONDS } = options;
    this.#transport = { server: this.#server, calls: this.#calls, maxReceiveBytes, stallMilliseconds };
  }

  /** Before `listen`. Handlers left out answer UNIMPLEMENTED by name. */
  add<Definition extends object>(
    definition: Definition,
    handlers: HandlersOf<Definition>,
    options: ServiceOptions<Definition> = {},
  ): void {
    this.#services.push(serviceName(definition));
    addService(this.#transport, definition, handlers, options);
  }

  /**
   * Binds and serves. Resolves to the port.
   * @param address `host:port`; port 0 takes a free one.
   */
  async listen(address: string): Promise<number> {
    this.#health = new Health(this.#services);
    const always = { acceptWhileDraining: true, finishOnDrain: ['watch'] } as const;
    addService(this.#transport, HealthService, this.#health.handlers(), always);
    const reflection = createReflection();
    const options = { acceptWhileDraining: true };
    addService(this.#transport, ServerReflectionService, reflection, options);
    addService<typeof V1_ALPHA>(this.#transport, V1_ALPHA, reflection, options);
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    this.#health.setServing(true);
    return port;
  }

  /**
   * Health turns to NOT_SERVING, new calls are refused with DRAINING, streams end with it, other calls may finish within the time given.
   * Whatever is left then ends with DRAINING too; health goes on answering until `close`.
   */
  async drain(timeoutMilliseconds: number): Promise<void> {
    this.#health?.setServing(false);
    this.#calls.drain();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, timeoutMilliseconds);
    });
    await Promise.race([this.#calls.finished(), timeout]);
    clearTimeout(timer);
    this.#calls.abortUnfinished();
  }

  /** Ends what is left and closes every connection. Idempotent. */
  async close(): Promise<void> {
    this.#health?.setServing(false);
    this.#calls.abortAll();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, SHUTDOWN_MILLISECONDS);
    });
    await Promise.race([new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve())), timeout]);
    clearTimeout(timer);
    this.#server.forceShutdown();
  }
}
