/** gRPC calls as promises and async iterables. Knows methods and bytes, no service in particular. */
import { type Client, type CallOptions as GrpcCallOptions, Metadata, type ServiceError } from '@grpc/grpc-js';
import { LuthierError, toLuthierError } from './error.ts';
import { Status } from './status.ts';

/** What a caller may say about one call. */
export interface CallOptions {
  /** Aborting it cancels the call. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds after which the call fails with DEADLINE_EXCEEDED; for a stream, the whole stream. */
  readonly timeoutMs?: number | undefined;
  /** Text metadata, by lower-case key. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** A method as generated code describes it. */
export interface Method<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (value: Request) => Buffer;
  readonly responseDeserialize: (value: Buffer) => Response;
}

interface Cancellable {
  cancel(): void;
}

function toMetadata(entries: CallOptions['metadata']): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(entries ?? {})) metadata.set(key, value);
  return metadata;
}

const toGrpcOptions = (options: CallOptions): GrpcCallOptions =>
  options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };

function throwIfAborted(path: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new LuthierError(`${path}: cancelled before it began`, { code: Status.CANCELLED, cause: signal.reason });
  }
}

/** Cancels the call when the signal aborts; returns the function that ends the connection between the two. */
function bindSignal(call: Cancellable, signal: AbortSignal | undefined): () => void {
  if (signal === undefined) return () => {};
  const cancel = () => call.cancel();
  signal.addEventListener('abort', cancel, { once: true });
  return () => signal.removeEventListener('abort', cancel);
}

/** One request, one response. Throws LuthierError. */
export async function unary<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
  request: Request,
  options: CallOptions,
): Promise<Response> {
  throwIfAborted(method.path, options.signal);
  let unbind = () => {};
  try {
    return await new Promise<Response>((resolve, reject) => {
      const done = (error: ServiceError | null, response?: Response) =>
        error !== null || response === undefined ? reject(error) : resolve(response);
      const { path, requestSerialize, responseDeserialize } = method;
      const metadata = toMetadata(options.metadata);
      const call = client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadata,
        toGrpcOptions(options),
        done,
      );
      unbind = bindSignal(call, options.signal);
    });
  } catch (error) {
    throw toLuthierError(error, method.path);
  } finally {
    unbind();
  }
}

/**
 * One request, a stream of responses. The call begins with the first `next()`; leaving the loop cancels it (grpc-js by itself
 * lets the server write on). A slow reader holds the server back. Throws LuthierError.
 */
export async function* serverStream<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
  request: Request,
  options: CallOptions,
): AsyncGenerator<Response, void, undefined> {
  throwIfAborted(method.path, options.signal);
  const { path, requestSerialize, responseDeserialize } = method;
  const metadata = toMetadata(options.metadata);
  const call = client.makeServerStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    request,
    metadata,
    toGrpcOptions(options),
  );
  // The status of a cancelled call arrives after the loop was left: an `error` event without a listener would end the process.
  call.on('error', () => {});
  const unbind = bindSignal(call, options.signal);
  try {
    for await (const response of call) yield response as Response;
  } catch (error) {
    throw toLuthierError(error, path);
  } finally {
    unbind();
    call.cancel();
  }
}

/** Writes requests as fast as the server reads; `ended` settles once the call is over. */
async function writeRequests<Request>(
  call: { write(request: Request): boolean; once(event: 'drain', listener: () => void): unknown; end(): void },
  requests: AsyncIterable<Request>,
  state: { ended: boolean; readonly over: Promise<void> },
): Promise<void> {
  for await (const request of requests) {
    if (state.ended) return;
    if (call.write(request)) continue;
    const drained = Promise.withResolvers<void>();
    call.once('drain', drained.resolve);
    // A call that dies never drains.
    await Promise.race([drained.promise, state.over]);
  }
  call.end();
}

/**
 * A stream of requests, a stream of responses. Requests are taken only as fast as the server reads; leaving the loop cancels the call.
 * Throws LuthierError, or what the requests throw.
 */
export async function* bidiStream<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
  requests: AsyncIterable<Request>,
  options: CallOptions,
): AsyncGenerator<Response, void, undefined> {
  throwIfAborted(method.path, options.signal);
  const { path, requestSerialize, responseDeserialize } = method;
  const metadata = toMetadata(options.metadata);
  const call = client.makeBidiStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    metadata,
    toGrpcOptions(options),
  );
  const over = Promise.withResolvers<void>();
  const state = { ended: false, over: over.promise };
  const end = (): void => {
    state.ended = true;
    over.resolve();
  };
  call.on('error', end);
  call.on('status', end);
  const unbind = bindSignal(call, options.signal);
  let failure: unknown = null;
  const written = writeRequests<Request>(call, requests, state).catch((error: unknown) => {
    // The source failed: the server must not take what it has for the whole.
    failure = error;
    call.cancel();
  });
  try {
    for await (const response of call) yield response as Response;
    await written;
    if (failure !== null) throw failure;
  } catch (error) {
    throw toLuthierError(failure ?? error, path);
  } finally {
    unbind();
    end();
    call.cancel();
  }
}

/** A stream of requests, one response. Requests are taken only as fast as the server reads. Throws LuthierError. */
export async function clientStream<Request, Response>(
  client: Client,
  method: Method<Request, Response>,
  requests: AsyncIterable<Request>,
  options: CallOptions,
): Promise<Response> {
  throwIfAborted(method.path, options.signal);
  const { path, requestSerialize, responseDeserialize } = method;
  const answer = Promise.withResolvers<Response>();
  // Handled below; until then a failure must not count as unhandled.
  answer.promise.catch(() => {});
  let ended = false;
  const done = (error: ServiceError | null, response?: Response) => {
    ended = true;
    if (error !== null || response === undefined) answer.reject(error);
    else answer.resolve(response);
  };
  const metadata = toMetadata(options.metadata);
  const call = client.makeClientStreamRequest(
    path,
    requestSerialize,
    responseDeserialize,
    metadata,
    toGrpcOptions(options),
    done,
  );
  call.on('error', () => {});
  const unbind = bindSignal(call, options.signal);
  try {
    for await (const request of requests) {
      if (ended) break;
      if (call.write(request)) continue;
      const drained = Promise.withResolvers<void>();
      call.once('drain', drained.resolve);
      // A call that dies never drains.
      await Promise.race([drained.promise, answer.promise.then(() => {})]);
    }
    call.end();
    return await answer.promise;
  } catch (error) {
    // The source failed: the server must not take what it has for the whole.
    call.cancel();
    throw toLuthierError(error, path);
  } finally {
    unbind();
  }
}
