/** Medians, and what pairs of measurements say about a difference. */

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const at = (index: number) => sorted[index] ?? Number.NaN;
  return Number.isInteger(middle) ? (at(middle - 1) + at(middle)) / 2 : at(Math.floor(middle));
}

/** 0.975 quantiles of Student's t for 1, 2, 3, ... degrees of freedom. */
const T_975 = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/** Beyond the table: the first terms of the Cornish-Fisher expansion about the normal quantile z, z + (z³ + z) / 4n. */
function t975(degrees: number): number {
  const z = 1.959964;
  return T_975[degrees - 1] ?? z + (z ** 3 + z) / (4 * degrees);
}

export interface MeanInterval {
  readonly mean: number;
  /** The 95 % confidence interval of the mean by Student's t; null with fewer than two values. */
  readonly interval: readonly [number, number] | null;
}

export function meanInterval(values: readonly number[]): MeanInterval {
  const count = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / count;
  if (count < 2) return { mean, interval: null };
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (count - 1);
  const half = t975(count - 1) * Math.sqrt(variance / count);
  return { mean, interval: [mean - half, mean + half] };
}

/** To so many digits after the point: what is printed pretends to no more. */
export const round = (value: number, digits = 3): number => Number(value.toFixed(digits));
