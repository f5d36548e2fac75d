/**
 * Connects handlers (`handlers.ts`) to grpc-js: the only file that knows both.
 *
 * Messages are decoded and encoded here and not inside grpc-js, which would report a broken request as INTERNAL.
 */
import type * as grpc from '@grpc/grpc-js';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ActiveCall, ActiveCalls, DrainPolicy } from './active-calls.ts';
import type {
  BidiStreamHandler,
  CallContext,
  ClientStreamHandler,
  ServerStreamHandler,
  UnaryHandler,
} from './handlers.ts';
import { readAll, type StallPolicy, writeAll } from './streams.ts';

/** One method of a generated service definition. */
interface MethodDefinition<Request, Response> {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
  readonly requestDeserialize: (bytes: Buffer) => Request;
  readonly responseSerialize: (response: Response) => Buffer;
}

/** The handler type that a generated method asks for. */
type HandlerOf<Method> = Method extends {
  readonly requestStream: infer In;
  readonly responseStream: infer Out;
  readonly requestDeserialize: (bytes: Buffer) => infer Request;
  readonly responseSerialize: (response: infer Response) => Buffer;
}
  ? In extends true
    ? Out extends true
      ? BidiStreamHandler<Request, Response>
      : ClientStreamHandler<Request, Response>
    : Out extends true
      ? ServerStreamHandler<Request, Response>
      : UnaryHandler<Request, Response>
  : never;

/** The handlers of a generated service definition; what is left out answers UNIMPLEMENTED. */
export type HandlersOf<Definition> = { readonly [Name in keyof Definition]?: HandlerOf<Definition[Name]> };

export interface ServiceOptions<Definition> {
  /** Server streams that are left to finish while the server drains; other streams end at once, other calls always finish. */
  readonly finishOnDrain?: readonly (keyof Definition)[];
  /** New calls are answered while the server drains. Default false. */
  readonly acceptWhileDraining?: boolean;
  /** Server streams whose clients lose them with SLOW_CONSUMER where they stop reading: what is to be known to go on after a response. */
  readonly resumable?: { readonly [Name in keyof Definition]?: (last: unknown) => Readonly<Record<string, string>> };
}

/** A request as decoded; grpc-js hands it through unseen. */
type Decoded = { readonly request: unknown } | { readonly failure: LuthierError };

function decode(method: MethodDefinition<unknown, unknown>, bytes: Buffer, maxReceiveBytes: number): Decoded {
  if (bytes.length > maxReceiveBytes) {
    const message = `${method.path}: expected a message of at most ${maxReceiveBytes} bytes, found ${bytes.length}`;
    return { failure: new LuthierError('MESSAGE_TOO_LARGE', message) };
  }
  try {
    return { request: method.requestDeserialize(bytes) };
  } catch (cause) {
    const problem = cause instanceof Error ? cause.message : String(cause);
    const message = `the request of ${method.path} is no valid message: ${problem}`;
    return { failure: new LuthierError('INVALID_REQUEST', message, { cause }) };
  }
}

function requestOf(decoded: Decoded): unknown {
  if ('request' in decoded) return decoded.request;
  throw decoded.failure;
}

async function* requestsOf(decoded: AsyncIterable<Decoded>): AsyncGenerator<unknown, void, undefined> {
  for await (const one of decoded) yield requestOf(one);
}

type AnyMethod = MethodDefinition<unknown, unknown>;

async function answerOnce(
  active: ActiveCall,
  method: AnyMethod,
  callback: grpc.sendUnaryData<Buffer>,
  respond: () => Promise<unknown>,
): Promise<void> {
  let bytes: Buffer;
  try {
    active.context.signal.throwIfAborted();
    bytes = method.responseSerialize(await respond());
    active.context.signal.throwIfAborted();
  } catch (error) {
    callback(active.fail(error));
    return;
  }
  active.succeed();
  callback(null, bytes);
}

async function answerMany(
  active: ActiveCall,
  method: AnyMethod,
  call: grpc.ServerWritableStream<Decoded, Buffer>,
  respond: () => AsyncIterable<unknown>,
  stall: StallPolicy<unknown> | null,
): Promise<void> {
  try {
    active.context.signal.throwIfAborted();
    await writeAll(call, respond(), method.responseSerialize, active.context.signal, stall);
  } catch (error) {
    // `destroy(error)` would send no status at all.
    call.emit('error', active.fail(error));
    return;
  }
  active.succeed();
  call.end();
}

type Handler = (request: unknown, context: CallContext) => unknown;

const notBuilt = (path: string): Handler => {
  return () => {
    throw new LuthierError('NOT_BUILT_YET', `${path.slice(1)} is not built yet`, {
      metadata: { method: path.slice(1) },
    });
  };
};

/** The grpc-js function of one method. */
function connect(
  method: AnyMethod,
  handler: Handler,
  calls: ActiveCalls,
  policy: DrainPolicy,
  stall: StallPolicy<unknown> | null,
): grpc.UntypedHandleCall {
  const { path } = method;
  if (method.responseStream) {
    const input = (call: grpc.ServerDuplexStream<Decoded, Buffer>, context: CallContext): unknown =>
      method.requestStream
        ? requestsOf(readAll<Decoded>(call, context.signal))
        : requestOf((call as unknown as { request: Decoded }).request);
    return (call: grpc.ServerDuplexStream<Decoded, Buffer>): void => {
      const active = calls.begin(call, path, policy);
      const respond = (): AsyncIterable<unknown> =>
        handler(input(call, active.context), active.context) as AsyncIterable<unknown>;
      void answerMany(active, method, call as unknown as grpc.ServerWritableStream<Decoded, Buffer>, respond, stall);
    };
  }
  if (method.requestStream) {
    return (call: grpc.ServerReadableStream<Decoded, Buffer>, callback: grpc.sendUnaryData<Buffer>): void => {
      const active = calls.begin(call, path, policy);
      const requests = requestsOf(readAll<Decoded>(call, active.context.signal));
      void answerOnce(active, method, callback, async () => handler(requests, active.context));
    };
  }
  return (call: grpc.ServerUnaryCall<Decoded, Buffer>, callback: grpc.sendUnaryData<Buffer>): void => {
    const active = calls.begin(call, path, policy);
    void answerOnce(active, method, callback, async () => handler(requestOf(call.request), active.context));
  };
}

const slowConsumer =
  (resume: (last: unknown) => Readonly<Record<string, string>>, milliseconds: number) =>
  (last: unknown): LuthierError =>
    new LuthierError(
      'SLOW_CONSUMER',
      `nothing was read for ${milliseconds / 1000} seconds; open the stream again after what was read last`,
      { metadata: resume(last) },
    );

/** What the services of one server share. */
export interface Transport {
  readonly server: grpc.Server;
  readonly calls: ActiveCalls;
  /** Largest request message, bytes. grpc-js should let more than that through: what it refuses has no details. */
  readonly maxReceiveBytes: number;
  /** How long a client of a resumable stream may read nothing. */
  readonly stallMilliseconds: number;
}

/** Adds a generated service to a grpc-js server. */
export function addService<Definition extends object>(
  { server, calls, maxReceiveBytes, stallMilliseconds }: Transport,
  definition: Definition,
  handlers: HandlersOf<Definition>,
  options: ServiceOptions<Definition> = {},
): void {
  const raw: Record<string, grpc.MethodDefinition<Decoded, Buffer>> = {};
  const implementation: grpc.UntypedServiceImplementation = {};
  for (const [name, entry] of Object.entries(definition)) {
    const method = entry as AnyMethod;
    const finish = !method.responseStream || (options.finishOnDrain ?? []).includes(name as keyof Definition);
    raw[name] = {
      path: method.path,
      requestStream: method.requestStream,
      responseStream: method.responseStream,
      requestDeserialize: (bytes) => decode(method, bytes, maxReceiveBytes),
      responseSerialize: (bytes) => bytes,
      // Only clients use these two.
      requestSerialize: () => Buffer.alloc(0),
      responseDeserialize: (bytes) => bytes,
    };
    const handler = (handlers as Record<string, Handler | undefined>)[name] ?? notBuilt(method.path);
    const policy = { accept: options.acceptWhileDraining === true, finish };
    const resume = options.resumable?.[name as keyof Definition];
    const stall = resume ? { milliseconds: stallMilliseconds, error: slowConsumer(resume, stallMilliseconds) } : null;
    implementation[name] = connect(method, handler, calls, policy, stall);
  }
  server.addService(raw, implementation);
}
