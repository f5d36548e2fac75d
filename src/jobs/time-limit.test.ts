import { expect, onTestFinished, test, vi } from 'vitest';
import { limitTime } from './time-limit.ts';

function start(milliseconds: number) {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const stopAfterStep = vi.fn();
  return { limit: limitTime({ stopAfterStep }, milliseconds), stopAfterStep };
}

test('a run is told once, when its time is up', () => {
  const { limit, stopAfterStep } = start(1000);
  vi.advanceTimersByTime(999);
  expect([limit.reached, stopAfterStep.mock.calls.length]).toEqual([false, 0]);
  vi.advanceTimersByTime(1);
  expect([limit.reached, stopAfterStep.mock.calls.length]).toEqual([true, 1]);
  vi.advanceTimersByTime(10_000);
  expect(stopAfterStep).toHaveBeenCalledTimes(1);
});

test('a run that ends before is left alone', () => {
  const { limit, stopAfterStep } = start(1000);
  limit[Symbol.dispose]();
  vi.advanceTimersByTime(10_000);
  expect([limit.reached, stopAfterStep.mock.calls.length]).toEqual([false, 0]);
});

test('a limit that earlier attempts used up ends the run after its first step', () => {
  const { limit, stopAfterStep } = start(-5);
  expect([limit.reached, stopAfterStep.mock.calls.length]).toEqual([true, 1]);
});

test('months are more than one timer can wait', () => {
  const months = 90 * 24 * 3600 * 1000;
  const { limit, stopAfterStep } = start(months);
  vi.advanceTimersByTime(months - 1);
  expect(stopAfterStep).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1);
  expect(limit.reached).toBe(true);
});
