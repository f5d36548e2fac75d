/** `luthier validate`: every problem of a data set, and what a job would read of it. */
import { createReadStream, statSync } from 'node:fs';
import { Command } from 'commander';
import {
  type CheckDatasetHeader,
  DatasetReport,
  type DeepPartial,
  OverLengthPolicy,
  Status,
} from '../../../typescript/src/index.ts';
import { numberOption, printJson, printLines, type Session, withSession } from '../connection.ts';
import { CliError, EXIT, exitCodeOf } from '../failure.ts';
import { type FileFlags, fileOptions, refuseFileOptions, withFileFlags } from '../file-options.ts';
import { formatBytes } from '../format.ts';
import { type Io, print } from '../io.ts';
import { resourceName } from '../names.ts';
import { choice, OVER_LENGTH } from '../training-flags.ts';
import { describeReport } from '../view/dataset-report.ts';
import { commonOf, type ExampleFlags, isFile, withExamples } from './examples.ts';
import type { SetExitCode } from './set-exit-code.ts';

interface ValidateFlags extends ExampleFlags, FileFlags {
  readonly maxSeqLength?: number;
  readonly overLength?: string;
  readonly perDeviceTrainBatchSize?: number;
  readonly gradientAccumulationSteps?: number;
  readonly numTrainEpochs?: number;
}

/** One line of a terminal, written over again and again. */
class ProgressLine {
  readonly #io: Io;
  readonly #shown: boolean;
  #width = 0;

  constructor({ io, json }: Session) {
    this.#io = io;
    this.#shown = io.stderr.isTTY === true && !json;
  }

  async show(text: string): Promise<void> {
    if (!this.#shown) return;
    await print(this.#io.stderr, `\r${text.padEnd(this.#width)}`);
    this.#width = text.length;
  }

  async clear(): Promise<void> {
    if (this.#width > 0) await print(this.#io.stderr, `\r${' '.repeat(this.#width)}\r`);
    this.#width = 0;
  }
}

/** A file's pieces; says how much of it was sent. */
async function* sent(path: string, line: ProgressLine): AsyncGenerator<Uint8Array, void, undefined> {
  const { size } = statSync(path);
  let bytes = 0;
  for await (const piece of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    yield piece as Uint8Array;
    bytes += (piece as Uint8Array).length;
    await line.show(`sent ${formatBytes(bytes)} of ${formatBytes(size)}`);
  }
}

function headerOf(data: string, options: ValidateFlags): DeepPartial<CheckDatasetHeader> {
  const overLength =
    options.overLength === undefined
      ? OverLengthPolicy.OVER_LENGTH_POLICY_UNSPECIFIED
      : choice('over-length', OVER_LENGTH, options.overLength.replaceAll('-', '_'));
  const { perDeviceTrainBatchSize, gradientAccumulationSteps, numTrainEpochs, maxSeqLength = 0 } = options;
  const steps = { perDeviceTrainBatchSize, gradientAccumulationSteps, numTrainEpochs };
  const validation = { ...commonOf(options), maxSeqLength, overLength, ...steps };
  const file = fileOptions(options, data);
  if (isFile(data)) return { validation, ...file } as DeepPartial<CheckDatasetHeader>;
  refuseFileOptions(data, file);
  return { validation: { ...validation, dataset: resourceName('datasets', data) } } as DeepPartial<CheckDatasetHeader>;
}

async function validate(session: Session, data: string, options: ValidateFlags): Promise<number> {
  const header = headerOf(data, options);
  const line = new ProgressLine(session);
  let report: DatasetReport | null = null;
  try {
    const source = isFile(data) ? sent(data, line) : [];
    for await (const { event } of session.client.checkDataset(header, source)) {
      if (event?.$case === 'report') report = event.value;
      else if (event?.$case === 'progress') {
        const { readBytes, totalBytes, examples, problemCount } = event.value;
        const share = totalBytes === 0 ? 100 : Math.floor((100 * readBytes) / totalBytes);
        await line.show(`${share} %, ${examples} examples, ${problemCount} problems`);
      }
    }
  } finally {
    await line.clear();
  }
  if (report === null) throw new CliError('the server ended the check without a report', EXIT.unexpected);
  if (session.json) await printJson(session, DatasetReport, report);
  else await printLines(session, describeReport(report));
  return report.problemCount === 0 ? EXIT.ok : exitCodeOf(Status.INVALID_ARGUMENT);
}

/** The command. */
export function validateCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = new Command('validate').description(
    'read and render every example; report every problem, the counts, and the steps of a job. Stores nothing',
  );
  withFileFlags(withExamples(command));
  command.option('--max-seq-length <n>', "default: the model's context", numberOption(1, true));
  command.option('--over-length <policy>', 'error, truncate, drop_rounds or drop (default: error)');
  command.option('--per-device-train-batch-size <n>', 'for the number of steps (default: 8)', numberOption(1, true));
  command.option('--gradient-accumulation-steps <n>', 'for the number of steps (default: 1)', numberOption(1, true));
  command.option('--num-train-epochs <n>', 'for the number of steps (default: 3)', numberOption(0.001));
  return command.action(async (data: string, options: ValidateFlags) =>
    setExitCode(await withSession(io, options, (session) => validate(session, data, options))),
  );
}
