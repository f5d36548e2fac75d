/** A curve over steps as inline SVG. Its colours are the page's: `.line`, `.dots`, `.grid` and `.axis`. */
import { escaped } from './html.ts';

/** A value after a step; one that is no finite number is a gap. */
export interface Point {
  readonly step: number;
  readonly value: number;
}

const WIDTH = 720;
const HEIGHT = 220;
const MARGIN = { left: 64, right: 16, top: 12, bottom: 28 } as const;
/** Stretches of steps that a line tells apart: more are not seen. */
const STRETCHES = 360;

/** Of each stretch the lowest and the highest point, so that no peak is lost. */
function thin(points: readonly Point[]): readonly Point[] {
  if (points.length <= 2 * STRETCHES) return points;
  return Array.from({ length: STRETCHES }, (_, index) => {
    const from = Math.floor((index * points.length) / STRETCHES);
    const part = points.slice(from, Math.floor(((index + 1) * points.length) / STRETCHES));
    const finite = part.filter(({ value }) => Number.isFinite(value)).sort((a, b) => a.value - b.value);
    const [lowest, highest] = [finite[0], finite.at(-1)];
    if (!lowest || !highest) return part.slice(0, 1);
    return lowest === highest ? [lowest] : [lowest, highest].sort((a, b) => a.step - b.step);
  }).flat();
}

/** At most five round numbers within a range. */
function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 4;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const width = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const first = Math.ceil(low / width);
  return Array.from({ length: Math.floor(high / width) - first + 1 }, (_, index) => (first + index) * width);
}

const shown = (value: number): string => {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(4)));
};

/**
 * A picture, or nothing where no value is finite.
 * @param label What a screen reader says.
 * @param line Joined, in the order of their steps. @param dots Drawn one by one, over it.
 */
export function svgCurve(label: string, line: readonly Point[], dots: readonly Point[] = []): string {
  const finite = [...thin(line), ...dots].filter(({ value }) => Number.isFinite(value));
  if (finite.length === 0) return '';
  const steps = finite.map(({ step }) => step);
  const values = finite.map(({ value }) => value);
  const [firstStep, lastStep] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const right = WIDTH - MARGIN.right;
  const bottom = HEIGHT - MARGIN.bottom;
  const x = (step: number): string =>
    (MARGIN.left + ((step - firstStep) / (lastStep - firstStep || 1)) * (right - MARGIN.left)).toFixed(1);
  const y = (value: number): string =>
    (bottom - (high === low ? 0.5 : (value - low) / (high - low)) * (bottom - MARGIN.top)).toFixed(1);
  let [path, joined] = ['', false];
  for (const { step, value } of thin(line)) {
    if (Number.isFinite(value)) path += `${joined ? 'L' : 'M'}${x(step)} ${y(value)}`;
    joined = Number.isFinite(value);
  }
  const grid = ticks(low, high).map(
    (value) =>
      `<path class="grid" d="M${MARGIN.left} ${y(value)}H${right}"/><text class="axis" x="${MARGIN.left - 6}" y="${y(value)}" text-anchor="end" dominant-baseline="middle">${shown(value)}</text>`,
  );
  const below = ticks(firstStep, lastStep)
    .filter(Number.isInteger)
    .map((step) => `<text class="axis" x="${x(step)}" y="${bottom + 18}" text-anchor="middle">${step}</text>`);
  const circles = dots
    .filter(({ value }) => Number.isFinite(value))
    .map(({ step, value }) => `<circle class="dots" cx="${x(step)}" cy="${y(value)}" r="3.5"/>`);
  return `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(label)}">
${[...grid, ...below, `<path class="line" d="${path}"/>`, ...circles].join('\n')}
</svg>`;
}
