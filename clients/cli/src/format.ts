/** Numbers and tables for people. */
import { type Checkpoint, JobState, type Packing } from '../../typescript/src/index.ts';

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** Such as `1.4 GiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < BYTE_UNITS.length - 1; unit++) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${BYTE_UNITS[unit]}`;
}

/** Such as `4 s`, `2 min 05 s`, `3 h 12 min`. */
export function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, '0')} min`;
}

/** Such as `134.5 M`. */
export function formatCount(count: number): string {
  if (count < 1e4) return String(count);
  if (count < 1e6) return `${(count / 1e3).toFixed(1)} k`;
  return count < 1e9 ? `${(count / 1e6).toFixed(1)} M` : `${(count / 1e9).toFixed(1)} G`;
}

/** Such as `NVIDIA H100 80GB HBM3, 79.1 GiB, compute capability 9.0`. */
export function describeGpu(gpu: {
  readonly name: string;
  readonly totalMemoryBytes: number;
  readonly computeCapability: string;
}): string {
  return `${gpu.name}, ${formatBytes(gpu.totalMemoryBytes)}, compute capability ${gpu.computeCapability}`;
}

/** Columns under headings, as wide as their longest cell. */
export function formatTable(headings: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  return [headings, ...rows].map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

/** `name  value` lines. */
export function formatRecord(entries: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...entries.map(([name]) => name.length));
  return entries.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd());
}

const STATES = new Map<number, string>(
  Object.entries(JobState).map(([name, value]) => [value, name.replace('JOB_STATE_', '').toLowerCase()]),
);

/** Such as `running`. */
export const stateName = (state: JobState): string => STATES.get(state) ?? 'unknown';

/** Where a checkpoint stands, and its size. */
export const checkpointText = ({ globalStep, sizeBytes }: Checkpoint): string =>
  `step ${globalStep}, ${formatBytes(sizeBytes)}`;

/** What packing makes of examples. */
export const formatPacking = ({ sequences, utilization }: Packing): string =>
  `${formatCount(sequences)} sequences, ${(100 * utilization).toFixed(1)} % full`;
