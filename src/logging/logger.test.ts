import { expect, test } from 'vitest';
import { LuthierError } from '../errors/luthier-error.ts';
import type { CallRecord } from '../rpc/active-calls.ts';
import { callLog } from './call-log.ts';
import { createLogger } from './logger.ts';
import { textLine } from './text-line.ts';

function capture(level: string) {
  const lines: Record<string, unknown>[] = [];
  const logger = createLogger({ level, format: 'json' }, { write: (line) => void lines.push(JSON.parse(line)) });
  return { lines, log: callLog(logger) };
}

const record: CallRecord = {
  method: '/luthier.v1.ModelService/GetModel',
  callId: 'id',
  peer: '127.0.0.1:1',
  status: 'OK',
  reason: null,
  error: null,
  milliseconds: 1.2345,
  traceparent: null,
};

test('one line for a call, with its status and time', () => {
  const { lines, log } = capture('info');
  log(record);
  log({ ...record, status: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' });
  expect(lines).toMatchObject([
    { level: 'info', msg: 'call', method: 'luthier.v1.ModelService/GetModel', status: 'OK', ms: 1.2, call: 'id' },
    { status: 'NOT_FOUND', reason: 'MODEL_NOT_FOUND' },
  ]);
});

test('what went wrong inside the server is logged in full, as an error', () => {
  const { lines, log } = capture('error');
  log(record);
  log({ ...record, status: 'INTERNAL', reason: 'INTERNAL', error: new TypeError('x is undefined') });
  expect(lines).toMatchObject([{ level: 'error', call: 'id', err: { type: 'TypeError', message: 'x is undefined' } }]);
  expect(lines[0]).toMatchObject({ err: { stack: expect.stringContaining('logger.test.ts') } });
});

test('health checks are quiet', () => {
  const { lines, log } = capture('info');
  log({ ...record, method: '/grpc.health.v1.Health/Check' });
  expect(lines).toEqual([]);
});

test('lines for people', () => {
  const json = JSON.stringify({
    level: 'info',
    time: '2030-01-02T03:04:05.678Z',
    a: 'b',
    c: 'd e',
    n: 1,
    msg: 'listening',
  });
  expect(textLine(json)).toBe('03:04:05.678 info listening a=b c="d e" n=1\n');
  const error = new LuthierError('INTERNAL', 'broken');
  const line = textLine(JSON.stringify({ level: 'error', time: '', msg: 'call', err: { stack: error.stack } }));
  expect(line.split('\n').length).toBeGreaterThan(2);
});
