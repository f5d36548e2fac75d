/**
 * The engine's failures as a closed set. The addon sends a code as the cause of its error; `EngineError` carries it on.
 * Messages already say what was expected, what was found and what to do.
 */
export type EngineErrorCode =
  | 'MODEL_NOT_FOUND'
  | 'MODEL_CORRUPT'
  | 'MODEL_UNSUPPORTED'
  | 'ADAPTER_NOT_FOUND'
  | 'ADAPTER_CORRUPT'
  | 'ADAPTER_MISMATCH'
  | 'ADAPTER_UNSUPPORTED'
  | 'CHECKPOINT_CORRUPT'
  | 'CHECKPOINT_MISMATCH'
  | 'UNKNOWN_TARGET_MODULE'
  | 'INVALID_ARGUMENT'
  | 'SEQUENCE_TOO_LONG'
  | 'NO_TRAINABLE_TOKENS'
  | 'NON_FINITE_LOSS'
  | 'OUT_OF_MEMORY'
  | 'STORAGE_FULL'
  | 'IO'
  | 'CANCELLED'
  | 'CLOSED'
  | 'INTERNAL';

export class EngineError extends Error {
  override readonly name = 'EngineError';
  readonly code: EngineErrorCode;

  constructor(code: EngineErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
