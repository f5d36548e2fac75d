/** A small curve of the loss, in Braille: two points across and four up per character. */

/** Bits of a Braille cell from bottom to top, left and right column (Unicode 2800–28FF). */
const DOTS = [
  [0x40, 0x04, 0x02, 0x01],
  [0x80, 0x20, 0x10, 0x08],
] as const;

/** The means of `count` equal stretches of the values. */
function resample(values: readonly number[], count: number): number[] {
  if (values.length <= count) return [...values];
  return Array.from({ length: count }, (_, index) => {
    const from = Math.floor((index * values.length) / count);
    const part = values.slice(from, Math.max(from + 1, Math.floor(((index + 1) * values.length) / count)));
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

/** `height` lines of at most `width` characters, with the highest and lowest value beside them. Empty for less than two values. */
export function lossCurve(values: readonly number[], width: number, height: number): string[] {
  const finite = values.filter(Number.isFinite);
  if (finite.length < 2) return [];
  const label = 8;
  const points = resample(finite, (width - label) * 2);
  const low = Math.min(...points);
  const high = Math.max(...points);
  const levels = height * 4 - 1;
  const cells = Array.from({ length: height }, () => new Uint8Array(Math.ceil(points.length / 2)));
  points.forEach((value, x) => {
    const level = high === low ? 0 : Math.round(((value - low) / (high - low)) * levels);
    const row = cells[height - 1 - Math.floor(level / 4)];
    const column = x >> 1;
    if (row !== undefined) row[column] = (row[column] ?? 0) | (DOTS[x % 2 === 0 ? 0 : 1][level % 4] ?? 0);
  });
  return cells.map((row, index) => {
    const value = index === 0 ? high : index === height - 1 ? low : null;
    const text = value === null ? '' : value.toFixed(3);
    return `${text.padStart(label - 1)} ${String.fromCodePoint(...Array.from(row, (bits) => 0x2800 + bits))}`;
  });
}
