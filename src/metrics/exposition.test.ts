import { expect, test } from 'vitest';
import { CallMetrics } from './call-metrics.ts';
import { counter, type Family, formatFamilies, gauge } from './exposition.ts';
import { Histogram } from './histogram.ts';
import { parsePage } from './testing/parse-page.ts';

test('families as the format has them; those without samples are left out', () => {
  const labelled: Family = {
    name: 'a',
    type: 'gauge',
    help: 'two\nlines \\',
    samples: [{ labels: { x: 'say "hi"\\\n', y: 'é' }, value: Number.NaN }, { value: Number.NEGATIVE_INFINITY }],
  };
  const page = formatFamilies([labelled, gauge('b', 'absent', null), counter('c_total', 'c', 1e21)]);
  expect(page).toBe(
    '# HELP a two\\nlines \\\\\n# TYPE a gauge\na{x="say \\"hi\\"\\\\\\n",y="é"} NaN\na -Inf\n' +
      '# HELP c_total c\n# TYPE c_total counter\nc_total 1e+21\n',
  );
  expect([...parsePage(page).keys()]).toEqual(['a', 'c_total']);
});

test('buckets hold all up to their bound, the last one everything', () => {
  const histogram = new Histogram([1, 5]);
  for (const value of [0, 1, 1.5, 5, 6]) histogram.observe(value);
  expect(histogram.samples({ a: 'b' })).toEqual([
    { suffix: '_bucket', labels: { a: 'b', le: '1' }, value: 2 },
    { suffix: '_bucket', labels: { a: 'b', le: '5' }, value: 4 },
    { suffix: '_bucket', labels: { a: 'b', le: '+Inf' }, value: 5 },
    { suffix: '_sum', labels: { a: 'b' }, value: 13.5 },
    { suffix: '_count', labels: { a: 'b' }, value: 5 },
  ]);
});

test('calls by method and status', () => {
  const calls = new CallMetrics();
  const method = '/luthier.v1.ModelService/GetModel';
  calls.record({ method, status: 'OK', milliseconds: 4 });
  calls.record({ method, status: 'OK', milliseconds: 400_000 });
  calls.record({ method, status: 'NOT_FOUND', milliseconds: 1 });
  const name = 'luthier_grpc_call_duration_seconds';
  const samples = parsePage(formatFamilies(calls.families())).get(name)?.samples;
  const labels = (status: string) => `method="luthier.v1.ModelService/GetModel",status="${status}"`;
  expect(samples?.get(`${name}_count{${labels('OK')}}`)).toBe(2);
  expect(samples?.get(`${name}_sum{${labels('OK')}}`)).toBeCloseTo(400.004);
  expect(samples?.get(`${name}_bucket{${labels('OK')},le="0.0025"}`)).toBe(0);
  expect(samples?.get(`${name}_bucket{${labels('OK')},le="0.005"}`)).toBe(1);
  expect(samples?.get(`${name}_count{${labels('NOT_FOUND')}}`)).toBe(1);
});
