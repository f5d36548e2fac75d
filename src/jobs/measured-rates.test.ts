import { expect, test } from 'vitest';
import { MeasuredRates } from './measured-rates.ts';

const key = { contentHash: 'a', storage: 'nf4', recomputeLayers: 2, offloadActivations: false };

test("a rate is the job's mean over time, and the latest job's", () => {
  const rates = new MeasuredRates();
  expect(rates.of(key)).toBeNull();
  const first = rates.measure(key);
  first(100, 100);
  first(100, 50);
  expect(rates.of({ ...key })).toBeCloseTo(200 / 3);
  rates.measure(key)(10, 7);
  expect(rates.of(key)).toBeCloseTo(7);
});

test('other weights, bases, recomputed layers and places of their inputs have rates of their own; a clock that stood still gives none', () => {
  const rates = new MeasuredRates();
  rates.measure(key)(10, 5);
  rates.measure({ ...key, storage: 'bf16' })(10, 0);
  for (const other of [
    { storage: 'bf16' },
    { contentHash: 'b' },
    { recomputeLayers: 0 },
    { offloadActivations: true },
  ]) {
    expect(rates.of({ ...key, ...other })).toBeNull();
  }
});
