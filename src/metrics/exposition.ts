/** Prometheus' text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Knows nothing of what is measured. */

/** Values by label; both of a fixed, small set. */
export type Labels = Readonly<Record<string, string>>;

/** One line of a family. */
export interface Sample {
  /** Behind the family's name, such as `_bucket`; left out: none. */
  readonly suffix?: string;
  readonly labels?: Labels;
  readonly value: number;
}

/** A metric: its name, what it is, and its samples. One without samples is left out of the page. */
export interface Family {
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  readonly samples: readonly Sample[];
}

export const CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

const escapedHelp = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n');
const escapedLabel = (text: string): string => escapedHelp(text).replaceAll('"', '\\"');

function formatValue(value: number): string {
  if (Number.isNaN(value)) return 'NaN';
  if (Number.isFinite(value)) return String(value);
  return value > 0 ? '+Inf' : '-Inf';
}

function formatSample(name: string, { suffix = '', labels = {}, value }: Sample): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapedLabel(text)}"`);
  return `${name}${suffix}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${formatValue(value)}\n`;
}

/** The page. */
export function formatFamilies(families: readonly Family[]): string {
  const texts = families.map(({ name, type, help, samples }) =>
    samples.length === 0
      ? ''
      : `# HELP ${name} ${escapedHelp(help)}\n# TYPE ${name} ${type}\n${samples.map((sample) => formatSample(name, sample)).join('')}`,
  );
  return texts.join('');
}

/** A gauge without labels; null: nothing to tell. */
export function gauge(name: string, help: string, value: number | null | undefined): Family {
  return { name, type: 'gauge', help, samples: value === null || value === undefined ? [] : [{ value }] };
}

/** A counter without labels. */
export function counter(name: string, help: string, value: number): Family {
  return { name, type: 'counter', help, samples: [{ value }] };
}
