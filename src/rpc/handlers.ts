/**
 * The shape of every service method, free of transport types: `adapter.ts` connects these to grpc-js, tests call them directly.
 */

/** What a call knows besides its request. */
export interface CallContext {
  /** Aborted when the client cancels, disconnects or its deadline passes, and when the server drains. */
  readonly signal: AbortSignal;
  /** Null: the client set none. */
  readonly deadline: Date | null;
  /** Text metadata by lower-case key; the first value of each. */
  readonly metadata: ReadonlyMap<string, string>;
  /** The client's address as the transport gives it. */
  readonly peer: string;
  /** The call's id in the log. */
  readonly callId: string;
}

export type UnaryHandler<Request, Response> = (request: Request, context: CallContext) => Promise<Response>;

/** Each yielded response is written before the next is asked for; a slow client holds the generator back. */
export type ServerStreamHandler<Request, Response> = (
  request: Request,
  context: CallContext,
) => AsyncIterable<Response>;

export type ClientStreamHandler<Request, Response> = (
  requests: AsyncIterable<Request>,
  context: CallContext,
) => Promise<Response>;

export type BidiStreamHandler<Request, Response> = (
  requests: AsyncIterable<Request>,
  context: CallContext,
) => AsyncIterable<Response>;
