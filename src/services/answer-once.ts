import type { Remember, RequestLog } from '../store/request-log.ts';

/** A generated message type. */
interface Codec<Message> {
  encode(message: Message): { finish(): Uint8Array };
  decode(bytes: Uint8Array): Message;
}

/** As `Remember`, with the message. */
export type RememberMessage<Response> = <Result>(change: () => Result, answer: (result: Result) => Response) => Result;

/**
 * Answers a mutating request, or repeats the answer it was given before under the same `request_id`.
 * @param request What the id stands for, as bytes; another request under the same id is refused.
 * @throws LuthierError REQUEST_ID_REUSED
 */
export async function answerOnce<Response>(
  log: RequestLog,
  call: { readonly requestId: string; readonly method: string; readonly request: Uint8Array },
  response: Codec<Response>,
  action: (remember: RememberMessage<Response>) => Promise<Response>,
): Promise<Response> {
  const encode = (message: Response): Uint8Array => response.encode(message).finish();
  const encoded = await log.once(call.requestId, call.method, call.request, async (remember: Remember) =>
    encode(await action((change, answer) => remember(change, (result) => encode(answer(result))))),
  );
  return response.decode(encoded);
}
