/** `luthier validate` and `preview`: what a model would learn from a data set. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  DatasetFormat,
  DatasetReport,
  OverLengthPolicy,
  PreviewExamplesResponse,
  Status,
  TrainOn,
} from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  numberOption,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { CliError, EXIT, exitCodeOf } from '../failure.ts';
import { formatCount } from '../format.ts';
import type { Io } from '../io.ts';
import { modelName, resourceName } from '../names.ts';
import { choice, FORMATS, OVER_LENGTH, TRAIN_ON } from '../training-flags.ts';
import { maskPreview } from '../view/mask.ts';
import { previewPage } from '../view/preview-page.ts';
import type { SetExitCode } from './set-exit-code.ts';

interface ExampleFlags extends ConnectionOptions {
  readonly model: string;
  readonly template?: string;
  readonly trainOn?: string;
  readonly format?: string;
}

function withExamples(command: Command): Command {
  command.argument('<data>', 'a JSONL file, or the name of a stored data set');
  command.requiredOption('--model <name>', 'whose tokenizer and template: a registered name or a path');
  command.option('--template <id>', "default: the model's own");
  command.option('--train-on <what>', 'assistant, last or all (default: assistant)');
  command.option('--format <format>', 'of a file (default: detected)');
  return withConnection(command);
}

/** Whether the data are a file of this machine; else they are the name of a stored data set. */
function isFile(data: string): boolean {
  if (statSync(data, { throwIfNoEntry: false })?.isFile() === true) return true;
  const isName = /^(datasets\/)?[^/\\]+$/.test(data) && !/\.jsonl?$/i.test(data);
  if (isName && !existsSync(data)) return false;
  throw new CliError(`${data}: there is no such file; stored data sets are named datasets/NAME`);
}

function commonOf(options: ExampleFlags) {
  return {
    model: modelName(options.model),
    template: options.template ?? '',
    trainOn:
      options.trainOn === undefined ? TrainOn.TRAIN_ON_UNSPECIFIED : choice('train-on', TRAIN_ON, options.trainOn),
  };
}

const formatOf = (options: ExampleFlags): DatasetFormat =>
  options.format === undefined
    ? DatasetFormat.DATASET_FORMAT_UNSPECIFIED
    : choice('format', FORMATS, options.format.replaceAll('-', '_'));

interface ValidateFlags extends ExampleFlags {
  readonly maxSeqLength?: number;
  readonly overLength?: string;
}

async function validate(session: Session, data: string, options: ValidateFlags): Promise<number> {
  const overLength =
    options.overLength === undefined
      ? OverLengthPolicy.OVER_LENGTH_POLICY_UNSPECIFIED
      : choice('over-length', OVER_LENGTH, options.overLength.replaceAll('-', '_'));
  const uploaded = isFile(data) ? await session.client.uploadDatasetFile(data, { format: formatOf(options) }) : null;
  try {
    const dataset = uploaded?.name ?? resourceName('datasets', data);
    const maxSeqLength = options.maxSeqLength ?? 0;
    const report = await session.client.validateDataset({ dataset, ...commonOf(options), maxSeqLength, overLength });
    if (session.json) await printJson(session, DatasetReport, report);
    else await printLines(session, describe(report));
    return report.problemCount === 0 ? EXIT.ok : exitCodeOf(Status.INVALID_ARGUMENT);
  } finally {
    // A file was only sent to be looked at.
    if (uploaded !== null) await session.client.deleteDataset(uploaded.name);
  }
}

function describe(report: DatasetReport): string[] {
  const { examples, tokens, labelTokens, shortest, longest, template, problems, problemCount } = report;
  const counts = `${examples} examples, ${formatCount(tokens)} tokens (${shortest} to ${longest} each), ${formatCount(labelTokens)} learned`;
  const lines = [
    counts,
    ...(template === undefined ? [] : [`template ${template.id} ${template.version} ${template.hash}`]),
  ];
  for (const { field, description, reason } of problems) lines.push(`${field}: ${description} (${reason})`);
  if (problemCount > problems.length) lines.push(`… and ${problemCount - problems.length} more`);
  return [...lines, problemCount === 0 ? 'no problems' : `${problemCount} problems`];
}

interface PreviewFlags extends ExampleFlags {
  readonly index?: string;
  readonly html?: string;
}

function parseIndices(text: string): number[] {
  const indices = text.split(',').map((part) => (/^\s*\d+\s*$/.test(part) ? Number(part) : Number.NaN));
  if (indices.every(Number.isSafeInteger)) return indices;
  throw new CliError(`--index: expected numbers of examples from 0, such as 0,4; found ${JSON.stringify(text)}`);
}

function writePage(file: string, page: string): void {
  try {
    writeFileSync(file, page);
  } catch (error) {
    throw new CliError(`--html: ${file} cannot be written: ${(error as Error).message}`);
  }
}

async function preview(session: Session, data: string, options: PreviewFlags): Promise<void> {
  const source = isFile(data)
    ? { $case: 'inline' as const, value: readFileSync(data, 'utf8') }
    : { $case: 'dataset' as const, value: resourceName('datasets', data) };
  if (source.value.trim() === '') throw new CliError(`${data} is empty: expected at least one example, one a line`);
  if (source.$case === 'inline' && Buffer.byteLength(source.value) > 1024 * 1024) {
    throw new CliError(`${data} is larger than the 1 MiB that can be previewed without storing it: upload it first`);
  }
  const indices = options.index === undefined ? [] : parseIndices(options.index);
  const response = await session.client.previewExamples({
    source,
    ...commonOf(options),
    indices,
    format: formatOf(options),
  });
  if (options.html !== undefined) writePage(options.html, previewPage(response, data, options.model));
  if (session.json) return printJson(session, PreviewExamplesResponse, response);
  if (options.html !== undefined) {
    const shown = response.examples.map(({ index }) => index).join(', ');
    return printLines(session, [`wrote ${resolve(options.html)}, with examples ${shown}`]);
  }
  for (const example of response.examples) await printLines(session, [maskPreview(session.io.stdout, example), '']);
}

/** `luthier validate`. */
export function validateCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = new Command('validate').description(
    'read and render every line; report every problem and the counts',
  );
  command.option('--max-seq-length <n>', "default: the model's context", numberOption(1, true));
  command.option('--over-length <policy>', 'error, truncate, drop_rounds or drop (default: error)');
  return withExamples(command).action(async (data: string, options: ValidateFlags) =>
    setExitCode(await withSession(io, options, (session) => validate(session, data, options))),
  );
}

/** `luthier preview`. */
export function previewCommand(io: Io): Command {
  const command = new Command('preview').description(
    'the exact tokens of examples; what is learned stands out in colour',
  );
  command.option('--index <n,…>', 'which examples, from 0 (default: the first three)');
  command.option('--html <file>', 'write one page that a browser shows, instead');
  return withExamples(command).action((data: string, options: PreviewFlags) =>
    withSession(io, options, (session) => preview(session, data, options)),
  );
}
