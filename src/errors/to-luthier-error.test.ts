import { expect, test } from 'vitest';
import { z } from 'zod';
import { EngineError } from '../engine/errors.ts';
import { PromptError } from '../prompt/errors.ts';
import { TokenizerError } from '../tokenizer/errors.ts';
import { LuthierError } from './luthier-error.ts';
import { toLuthierError } from './to-luthier-error.ts';
import { fieldPath, violationsOf } from './violations.ts';

test('a LuthierError stays the same object', () => {
  const error = new LuthierError('QUEUE_FULL', 'full');
  expect(toLuthierError(error)).toBe(error);
});

test.each([
  [new EngineError('MODEL_CORRUPT', 'tensor x ends at 12, the file at 10'), 'MODEL_CORRUPT'],
  [new EngineError('INVALID_ARGUMENT', 'top_k'), 'INVALID_REQUEST'],
  [new EngineError('IO', 'read failed'), 'STORAGE_FAILED'],
  [new EngineError('CLOSED', 'closed'), 'DRAINING'],
  [new TokenizerError('TOKENIZER_CORRUPT', 'no vocabulary'), 'MODEL_CORRUPT'],
  [new TokenizerError('TOKENIZER_NOT_FOUND', 'no tokenizer.json'), 'TOKENIZER_UNSUPPORTED'],
  [new PromptError('NO_CHAT_TEMPLATE', 'name one'), 'TEMPLATE_UNUSABLE'],
  [new PromptError('UNKNOWN_TEMPLATE', 'unknown'), 'TEMPLATE_NOT_FOUND'],
  [new PromptError('INVALID_TEMPLATE', 'user: expected a text'), 'INVALID_REQUEST'],
])('%s becomes %s with its own message', (error, reason) => {
  const mapped = toLuthierError(error);
  expect(mapped.reason).toBe(reason);
  expect(mapped.message).toBe(error.message);
  expect(mapped.cause).toBe(error);
});

test('an error from a worker thread is known by its name and code', () => {
  const crossed = Object.assign(new Error('bad roles'), { name: 'PromptError', code: 'TEMPLATE_FAILED' });
  expect(toLuthierError(crossed).reason).toBe('TEMPLATE_UNUSABLE');
});

test('messages at fault are named', () => {
  const mapped = toLuthierError(new PromptError('INVALID_MESSAGES', 'role', 2));
  expect(mapped.violations).toEqual([{ field: 'messages[2]', description: 'role', reason: 'INVALID_MESSAGES' }]);
});

test('aborts and time-outs', () => {
  expect(toLuthierError(AbortSignal.abort().reason).reason).toBe('CANCELLED');
  expect(toLuthierError(new DOMException('late', 'TimeoutError')).reason).toBe('DEADLINE_EXCEEDED');
});

test.each([
  [{ code: 'ENOSPC' }, 'STORAGE_FULL'],
  [{ code: 'EROFS' }, 'STORAGE_FAILED'],
  [{ code: 'ERR_SQLITE_ERROR', errcode: 13 }, 'STORAGE_FULL'],
  [{ code: 'ERR_SQLITE_ERROR', errcode: 10 | (3 << 8) }, 'STORAGE_FAILED'],
  [{ code: 'ERR_SQLITE_ERROR', errcode: 1 }, 'INTERNAL'],
])('a system failure %o becomes %s without its text', (fields, reason) => {
  const mapped = toLuthierError(Object.assign(new Error('/secret/path'), fields));
  expect(mapped.reason).toBe(reason);
  expect(mapped.message).not.toContain('secret');
});

test.each([new TypeError('x is undefined'), 'a string', null, new EngineError('INTERNAL', 'panicked at lib.rs:3')])(
  'anything else is INTERNAL and tells nothing: %s',
  (thrown) => {
    const mapped = toLuthierError(thrown);
    expect(mapped.reason).toBe('INTERNAL');
    expect(mapped.message).toBe('internal error');
    expect(mapped.cause).toBe(thrown);
  },
);

test('zod issues become violations with the proto field names', () => {
  const schema = z.strictObject({ maxNewTokens: z.int(), list: z.array(z.object({ topK: z.number().max(2) })) });
  const request = { maxNewTokens: 1.5, list: [{ topK: 1 }, { topK: 3 }], other: 1 };
  const result = schema.safeParse(request);
  const mapped = toLuthierError(result.error);
  expect(mapped.reason).toBe('INVALID_REQUEST');
  expect(mapped.violations.map((violation) => violation.field)).toEqual(['max_new_tokens', 'list[1].top_k', 'other']);
});

test('a oneof reads as the field that was set', () => {
  const request = { prompt: { input: { $case: 'tokenIds', value: { ids: [1, -1] } } } };
  expect(fieldPath(['prompt', 'input', 'value', 'ids', 1], request)).toBe('prompt.token_ids.ids[1]');
  const schema = z.object({ prompt: z.object({ input: z.object({ value: z.object({ ids: z.array(z.uint32()) }) }) }) });
  const error = schema.safeParse(request).error;
  expect(error && violationsOf(error, request)[0]?.field).toBe('prompt.token_ids.ids[1]');
});
