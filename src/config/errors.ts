/** A setting that is wrong. The message is for the person who started the server; it names the setting. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}
