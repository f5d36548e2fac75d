import type { RequestLog } from '../store/request-log.ts';

/** A generated message type. */
interface Codec<Message> {
  encode(message: Message): { finish(): Uint8Array };
  decode(bytes: Uint8Array): Message;
}

/**
 * Answers a mutating request, or repeats the answer it was given before under the same `request_id`.
 * @param request What the id stands for, as bytes; another request under the same id is refused.
 * @throws LuthierError REQUEST_ID_REUSED
 */
export async function answerOnce<Response>(
  log: RequestLog,
  call: { readonly requestId: string; readonly method: string; readonly request: Uint8Array },
  response: Codec<Response>,
  action: () => Promise<Response>,
): Promise<Response> {
  const encoded = await log.once(call.requestId, call.method, call.request, async () =>
    response.encode(await action()).finish(),
  );
  return response.decode(encoded);
}
