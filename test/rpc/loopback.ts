/** A real server on a loopback port with handlers of a test, and real clients. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type Client, credentials, type Metadata, type ServiceError } from '@grpc/grpc-js';
import { onTestFinished } from 'vitest';
import { BadRequest, ErrorInfo, ResourceInfo, RetryInfo } from '../../src/gen/google/rpc/error_details.ts';
import { Status } from '../../src/gen/google/rpc/status.ts';
import { HealthClient } from '../../src/gen/grpc/health/v1/health.ts';
import { ServerReflectionClient } from '../../src/gen/grpc/reflection/v1/reflection.ts';
import { DatasetServiceClient, DatasetServiceService } from '../../src/gen/luthier/v1/dataset_service.ts';
import {
  type GenerateResponse,
  GenerationServiceClient,
  GenerationServiceService,
} from '../../src/gen/luthier/v1/generation_service.ts';
import { TokenizerServiceClient, TokenizerServiceService } from '../../src/gen/luthier/v1/tokenizer_service.ts';
import type { CallRecord } from '../../src/rpc/active-calls.ts';
import type { HandlersOf } from '../../src/rpc/adapter.ts';
import { RpcServer } from '../../src/rpc/rpc-server.ts';

export interface LoopbackHandlers {
  readonly tokenizer?: HandlersOf<typeof TokenizerServiceService>;
  readonly generation?: HandlersOf<typeof GenerationServiceService>;
  readonly dataset?: HandlersOf<typeof DatasetServiceService>;
  readonly maxReceiveBytes?: number;
  readonly finishOnDrain?: readonly 'generate'[];
  /** What is to be known to go on with `generate`; left out: it is no resumable stream. */
  readonly resumable?: (last: GenerateResponse) => Readonly<Record<string, string>>;
  readonly stallMilliseconds?: number;
}

/** One server and a client of each service; closed when the test ends. */
export async function startLoopback(handlers: LoopbackHandlers) {
  const records: CallRecord[] = [];
  const server = new RpcServer({
    maxReceiveBytes: handlers.maxReceiveBytes ?? 4 * 2 ** 20,
    onCallEnd: (record) => records.push(record),
    ...(handlers.stallMilliseconds === undefined ? {} : { stallMilliseconds: handlers.stallMilliseconds }),
  });
  const { resumable } = handlers;
  server.add(TokenizerServiceService, handlers.tokenizer ?? {});
  server.add(GenerationServiceService, handlers.generation ?? {}, {
    finishOnDrain: handlers.finishOnDrain ?? [],
    ...(resumable ? { resumable: { generate: (last) => resumable(last as GenerateResponse) } } : {}),
  });
  server.add(DatasetServiceService, handlers.dataset ?? {});
  const address = `127.0.0.1:${await server.listen('127.0.0.1:0')}`;
  const clients: Client[] = [];
  const open = <T extends Client>(client: T): T => {
    clients.push(client);
    return client;
  };
  const insecure = credentials.createInsecure();
  onTestFinished(async () => {
    for (const client of clients) client.close();
    await server.close();
  });
  return {
    server,
    address,
    records,
    tokenizer: open(new TokenizerServiceClient(address, insecure)),
    generation: open(new GenerationServiceClient(address, insecure)),
    dataset: open(new DatasetServiceClient(address, insecure)),
    health: open(new HealthClient(address, insecure)),
    reflection: open(new ServerReflectionClient(address, insecure)),
  };
}

/** A TCP proxy in front of a server, whose connections can be cut as a network does. */
export async function startProxy(target: string): Promise<{ address: string; dropConnections: () => void }> {
  const [host = '', port = ''] = target.split(':');
  const sockets = new Set<Socket>();
  const dropConnections = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  const proxy = createServer((near) => {
    const far = connect(Number(port), host);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
    }
    near.pipe(far).pipe(near);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    dropConnections();
    proxy.close();
  });
  return { address: `127.0.0.1:${(proxy.address() as AddressInfo).port}`, dropConnections };
}

/** A unary call as a promise. */
export function unary<Request, Response>(
  client: Client,
  method: (request: Request, callback: (error: ServiceError | null, response: Response) => void) => unknown,
  request: Request,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    method.call(client, request, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

export interface DecodedError {
  readonly code: number;
  readonly message: string;
  readonly info: ErrorInfo | null;
  readonly badRequest: BadRequest | null;
  readonly retry: RetryInfo | null;
  readonly resource: ResourceInfo | null;
}

/** The details of a status as any gRPC client reads them. */
export function decodeError(error: { readonly code: number; readonly metadata: Metadata }): DecodedError {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  if (!Buffer.isBuffer(bytes)) throw new Error(`no details in ${JSON.stringify(error)}`);
  const status = Status.decode(bytes);
  const find = <T>(name: string, decode: (value: Buffer) => T): T | null => {
    const found = status.details.find((detail) => detail.typeUrl === `type.googleapis.com/google.rpc.${name}`);
    return found ? decode(found.value) : null;
  };
  return {
    code: status.code,
    message: status.message,
    info: find('ErrorInfo', (value) => ErrorInfo.decode(value)),
    badRequest: find('BadRequest', (value) => BadRequest.decode(value)),
    retry: find('RetryInfo', (value) => RetryInfo.decode(value)),
    resource: find('ResourceInfo', (value) => ResourceInfo.decode(value)),
  };
}

/** What a call was refused with. */
export async function refusal(call: Promise<unknown>): Promise<ServiceError> {
  try {
    await call;
  } catch (error) {
    return error as ServiceError;
  }
  throw new Error('the call was answered, expected it to be refused');
}

/** Polls until a condition holds; fails with the test's time limit. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}
