/**
 * Makes a change and remembers its answer in one transaction: whenever the server dies, both are there or neither is, so that a repeated
 * request is never done twice, nor refused for what it did itself.
 * @param change Synchronous, to the database that the log is in.
 * @param answer The encoded response; asked for after the change.
 */
export type Remember = <Result>(change: () => Result, answer: (result: Result) => Uint8Array) => Result;

/** Remembers what a mutating request was answered, so that repeating it changes nothing. */
export interface RequestLog {
  /**
   * Runs `action` unless `requestId` was answered before; then returns that answer. An empty id always runs. A failed action is
   * not remembered. Two calls at once with one id run once. Throws REQUEST_ID_REUSED where the id was used for another method
   * or another request.
   * @param method Such as `CreateTrainingJob`.
   * @param request The encoded request.
   * @param action Returns the encoded response. What it does is done again where the server dies before it returns, unless it used `remember`.
   */
  once(
    requestId: string,
    method: string,
    request: Uint8Array,
    action: (remember: Remember) => Promise<Uint8Array>,
  ): Promise<Uint8Array>;
}
