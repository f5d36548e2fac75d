/** Why the server cannot start. The message is for the person who started it and says what to do. */
export class ServerStartError extends Error {
  override readonly name = 'ServerStartError';
}
