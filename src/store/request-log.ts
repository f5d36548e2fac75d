/** Remembers what a mutating request was answered, so that repeating it changes nothing. */
export interface RequestLog {
  /**
   * Runs `action` unless `requestId` was answered before; then returns that answer. An empty id always runs. A failed action is
   * not remembered. Two calls at once with one id run once. Throws REQUEST_ID_REUSED where the id was used for another method
   * or another request.
   * @param method Such as `CreateTrainingJob`.
   * @param request The encoded request.
   * @param action Returns the encoded response.
   */
  once(requestId: string, method: string, request: Uint8Array, action: () => Promise<Uint8Array>): Promise<Uint8Array>;
}
