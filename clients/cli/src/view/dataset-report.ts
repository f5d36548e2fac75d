/** A data set's report for people. */
import {
  DatasetCompression,
  DatasetContainer,
  DatasetFormat,
  type DatasetReport,
  type HistogramBucket,
  OverLengthPolicy,
  type ProblemKind,
} from '../../../typescript/src/index.ts';
import { formatBytes, formatCount, formatRecord, formatTable } from '../format.ts';
import { progressBar } from './bar.ts';

const BAR_WIDTH = 30;

/** Such as `prompt_completion` of DATASET_FORMAT_PROMPT_COMPLETION. */
function wordOf(values: Readonly<Record<string, string | number>>, prefix: string, value: number): string {
  const name = Object.keys(values).find((key) => values[key] === value) ?? '';
  return name.startsWith(prefix) ? name.slice(prefix.length).toLowerCase() : 'unknown';
}

/** Such as `conversations, jsonl, gzip`. */
export function describeLayout(dataset: {
  readonly format: DatasetFormat;
  readonly container: DatasetContainer;
  readonly compression: DatasetCompression;
}): string {
  const compression = wordOf(DatasetCompression, 'DATASET_COMPRESSION_', dataset.compression);
  return [
    wordOf(DatasetFormat, 'DATASET_FORMAT_', dataset.format),
    wordOf(DatasetContainer, 'DATASET_CONTAINER_', dataset.container),
    ...(compression === 'none' || compression === 'unknown' ? [] : [compression]),
  ].join(', ');
}

function histogram(title: string, buckets: readonly HistogramBucket[]): string[] {
  if (buckets.length === 0) return [];
  const most = Math.max(...buckets.map(({ examples }) => examples));
  const rows = buckets.map(({ from, to, examples }) => [
    from === to ? String(from) : `${from}–${to}`,
    String(examples),
    progressBar(examples / most, BAR_WIDTH)
      .replaceAll('░', '')
      .trimEnd(),
  ]);
  return ['', ...formatTable([title, 'EXAMPLES', ''], rows)];
}

function effects({ overLengthEffects, maxSeqLength }: DatasetReport): string[] {
  const examples = overLengthEffects[0]?.examples ?? 0;
  if (examples === 0) return [];
  const rows = overLengthEffects.map(({ policy, lostExamples, lostTokens }) => [
    wordOf(OverLengthPolicy, 'OVER_LENGTH_POLICY_', policy),
    String(lostExamples),
    formatCount(lostTokens),
  ]);
  const title = `${examples} examples are longer than ${maxSeqLength} tokens`;
  return ['', title, ...formatTable(['POLICY', 'EXAMPLES LOST', 'TOKENS LOST'], rows)];
}

function kind({ reason, count, problems }: ProblemKind): string[] {
  const more = count > problems.length ? [`  … and ${count - problems.length} more`] : [];
  return [
    '',
    `${reason}, ${count}`,
    ...problems.map(({ field, description }) => `  ${field}: ${description}`),
    ...more,
  ];
}

/** Lines of text; problems by kind, the last line says whether there are any. */
export function describeReport(report: DatasetReport): string[] {
  const { tokens, labelTokens, shortest, longest, template, kinds, problemCount, longestExamples } = report;
  const notices = kinds.filter(({ refused }) => !refused).reduce((sum, { count }) => sum + count, 0);
  const record: [string, string][] = [
    ['format', describeLayout(report)],
    ['size', formatBytes(report.sizeBytes)],
    ['examples', String(report.examples)],
    ['tokens', `${formatCount(tokens)} (${shortest} to ${longest} each), ${formatCount(labelTokens)} learned`],
    ['steps', `${report.stepsPerEpoch} in an epoch, ${report.totalSteps} in all`],
  ];
  if (template !== undefined) record.push(['template', `${template.id} ${template.version} ${template.hash}`]);
  if (longestExamples.length > 0) {
    record.push(['longest', longestExamples.map((one) => `line[${one.line}]: ${one.tokens}`).join(', ')]);
  }
  return [
    ...formatRecord(record),
    ...histogram('TOKENS', report.lengths),
    ...histogram('ANSWERS', report.rounds),
    ...effects(report),
    ...(report.warnings.length === 0 ? [] : ['', ...report.warnings]),
    ...kinds.flatMap(kind),
    '',
    `${problemCount === 0 ? 'no problems' : `${problemCount} problems: a job would refuse this data set`}${notices === 0 ? '' : `; ${notices} notices`}`,
  ];
}
