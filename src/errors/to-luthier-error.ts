import { ZodError } from 'zod';
import type { EngineErrorCode } from '../engine/errors.ts';
import type { PromptErrorCode } from '../prompt/errors.ts';
import type { TokenizerErrorCode } from '../tokenizer/errors.ts';
import { LuthierError } from './luthier-error.ts';
import type { Reason } from './reasons.ts';
import { violationsOf } from './violations.ts';

const ENGINE: Readonly<Record<EngineErrorCode, Reason>> = {
  MODEL_NOT_FOUND: 'MODEL_NOT_FOUND',
  MODEL_CORRUPT: 'MODEL_CORRUPT',
  MODEL_UNSUPPORTED: 'MODEL_UNSUPPORTED',
  ADAPTER_NOT_FOUND: 'ADAPTER_NOT_FOUND',
  ADAPTER_CORRUPT: 'ADAPTER_CORRUPT',
  ADAPTER_MISMATCH: 'ADAPTER_MISMATCH',
  ADAPTER_UNSUPPORTED: 'ADAPTER_UNSUPPORTED',
  CHECKPOINT_CORRUPT: 'CHECKPOINT_CORRUPT',
  CHECKPOINT_MISMATCH: 'CHECKPOINT_MISMATCH',
  UNKNOWN_TARGET_MODULE: 'UNKNOWN_TARGET_MODULE',
  INVALID_ARGUMENT: 'INVALID_REQUEST',
  SEQUENCE_TOO_LONG: 'SEQUENCE_TOO_LONG',
  NO_TRAINABLE_TOKENS: 'NO_TRAINABLE_TOKENS',
  NON_FINITE_LOSS: 'NON_FINITE_LOSS',
  OUT_OF_MEMORY: 'OUT_OF_MEMORY',
  STORAGE_FULL: 'STORAGE_FULL',
  IO: 'STORAGE_FAILED',
  CANCELLED: 'CANCELLED',
  // The engine closes when the server ends.
  CLOSED: 'DRAINING',
  INTERNAL: 'INTERNAL',
};

const TOKENIZER: Readonly<Record<TokenizerErrorCode, Reason>> = {
  TOKENIZER_NOT_FOUND: 'TOKENIZER_UNSUPPORTED',
  TOKENIZER_CORRUPT: 'MODEL_CORRUPT',
  TOKENIZER_UNSUPPORTED: 'TOKENIZER_UNSUPPORTED',
  CLOSED: 'DRAINING',
};

const PROMPT: Readonly<Record<PromptErrorCode, Reason>> = {
  NO_CHAT_TEMPLATE: 'TEMPLATE_UNUSABLE',
  UNKNOWN_TEMPLATE: 'TEMPLATE_NOT_FOUND',
  INVALID_TEMPLATE: 'INVALID_REQUEST',
  TEMPLATE_FAILED: 'TEMPLATE_UNUSABLE',
  PREFIX_MISMATCH: 'TEMPLATE_UNUSABLE',
  INVALID_MESSAGES: 'INVALID_REQUEST',
};

/** By error name: worker threads keep an error's name and code, but not its class. */
const TABLES: ReadonlyMap<string, Readonly<Record<string, Reason>>> = new Map<string, Readonly<Record<string, Reason>>>(
  [
    ['EngineError', ENGINE],
    ['TokenizerError', TOKENIZER],
    ['PromptError', PROMPT],
  ],
);

/** System and SQLite failures with a name of their own; every other one is INTERNAL. */
const SYSTEM: ReadonlyMap<unknown, Reason> = new Map<unknown, Reason>([
  ['ENOSPC', 'STORAGE_FULL'],
  ['EDQUOT', 'STORAGE_FULL'],
  ['EIO', 'STORAGE_FAILED'],
  ['EROFS', 'STORAGE_FAILED'],
]);

/** SQLite's primary result codes (https://sqlite.org/rescode.html): SQLITE_IOERR, SQLITE_CORRUPT, SQLITE_FULL. */
const SQLITE: ReadonlyMap<unknown, Reason> = new Map<unknown, Reason>([
  [10, 'STORAGE_FAILED'],
  [11, 'STORAGE_FAILED'],
  [13, 'STORAGE_FULL'],
]);

const STORAGE_MESSAGES: Partial<Record<Reason, string>> = {
  STORAGE_FULL: 'the disk that holds the data folder is full; free some space and try again',
  STORAGE_FAILED: "the data folder could not be read or written; the server's log says why",
};

function internal(cause: unknown): LuthierError {
  return new LuthierError('INTERNAL', 'internal error', { cause });
}

function byTable(error: Error & { code?: unknown; messageIndex?: unknown }): LuthierError | null {
  const table = TABLES.get(error.name);
  const code = typeof error.code === 'string' ? error.code : '';
  const reason = table && Object.hasOwn(table, code) ? table[code] : undefined;
  if (reason === undefined) return null;
  if (reason === 'INTERNAL') return internal(error);
  const field =
    typeof error.messageIndex === 'number'
      ? `messages[${error.messageIndex}]`
      : code === 'INVALID_TEMPLATE'
        ? 'template'
        : null;
  const violations = field === null ? [] : [{ field, description: error.message, reason: code }];
  return new LuthierError(reason, error.message, { cause: error, violations });
}

/**
 * What a client is told about anything that was thrown: a LuthierError as it is; the engine's, the tokenizer's, the prompt's and zod's errors
 * by table; an abort as CANCELLED (a time-out as DEADLINE_EXCEEDED); a full or failing disk by name. Anything else is INTERNAL: its text
 * stays in `cause`, for the log.
 */
export function toLuthierError(error: unknown): LuthierError {
  if (error instanceof LuthierError) return error;
  if (error instanceof ZodError) {
    const violations = violationsOf(error);
    return new LuthierError('INVALID_REQUEST', violations.map((v) => `${v.field}: ${v.description}`).join('; '), {
      cause: error,
      violations,
    });
  }
  if (!(error instanceof Error)) return internal(error);
  if (error.name === 'AbortError') return new LuthierError('CANCELLED', 'the call was cancelled', { cause: error });
  if (error.name === 'TimeoutError') {
    return new LuthierError('DEADLINE_EXCEEDED', "the call's deadline passed", { cause: error });
  }
  const known = byTable(error);
  if (known) return known;
  const { code, errcode } = error as { code?: unknown; errcode?: unknown };
  const primary = typeof errcode === 'number' ? errcode & 0xff : null;
  const storage = SYSTEM.get(code) ?? SQLITE.get(primary);
  if (storage) return new LuthierError(storage, STORAGE_MESSAGES[storage] ?? storage, { cause: error });
  return internal(error);
}
