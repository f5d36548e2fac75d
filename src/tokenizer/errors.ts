/** Why a tokenizer could not be read or used. */
export type TokenizerErrorCode = 'TOKENIZER_NOT_FOUND' | 'TOKENIZER_CORRUPT' | 'TOKENIZER_UNSUPPORTED' | 'CLOSED';

/** A tokenizer that cannot be read, is broken, or asks for something that is not built. */
export class TokenizerError extends Error {
  override readonly name = 'TokenizerError';
  readonly code: TokenizerErrorCode;

  constructor(code: TokenizerErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
