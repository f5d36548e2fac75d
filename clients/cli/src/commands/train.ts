/** `luthier train`: upload, train, watch, export. */
import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command } from 'commander';
import type { DatasetFormat } from '../../../typescript/src/index.ts';
import { readConfigFile } from '../config-file.ts';
import { type ConnectionOptions, printLines, type Session, withConnection, withSession } from '../connection.ts';
import { CliError, EXIT } from '../failure.ts';
import { followJob } from '../follow-job.ts';
import type { Io } from '../io.ts';
import { adapterTarget } from '../names.ts';
import { TRAIN_OPTIONS_NOT_BUILT } from '../not-built.ts';
import { RUN_FLAGS, type TrainSettings, trainSettings } from '../train-settings.ts';
import { choice, FORMATS, TRAINING_FLAGS } from '../training-flags.ts';
import type { SetExitCode } from './set-exit-code.ts';

/** Options of the connection and of this command that do not describe the job. */
const OTHER = new Set(['server', 'embedded', 'dataDir', 'device', 'threads', 'timeout', 'json', 'config']);

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Adds every flag of the table, and those that are only there to be refused by name. */
function withTrainingFlags(command: Command): Command {
  for (const [name, help] of Object.entries(RUN_FLAGS)) command.option(`--${name} <value>`, help);
  for (const { name, kind, help } of TRAINING_FLAGS) {
    if (name === 'shuffle') command.option('--no-shuffle', 'keep the order of the file');
    else command.option(kind === 'boolean' ? `--${name}` : `--${name} <value>`, help);
  }
  for (const name of Object.keys(TRAIN_OPTIONS_NOT_BUILT)) {
    command.addOption(command.createOption(`--${name} [value]`).hideHelp());
  }
  return command;
}

/** What was really given: a default of the parser is no flag, and must not hide the file's value. */
function givenFlags(command: Command): Map<string, unknown> {
  const flags = new Map<string, unknown>();
  for (const [name, value] of Object.entries(command.opts())) {
    if (OTHER.has(name) || command.getOptionValueSource(name) === 'default') continue;
    flags.set(kebab(name), value);
  }
  return flags;
}

async function datasetOf(
  session: Session,
  value: string,
  flag: string,
  format: DatasetFormat | undefined,
): Promise<string> {
  if (value.startsWith('datasets/')) return value;
  const isFile = statSync(value, { throwIfNoEntry: false })?.isFile() === true;
  if (!isFile)
    throw new CliError(`--${flag} ${value}: there is no such file; stored data sets are named datasets/NAME`);
  const { name, examples } = await session.client.uploadDatasetFile(value, { format });
  if (!session.json) await printLines(session, [`uploaded ${value} as ${name}, ${examples} examples`]);
  return name;
}

async function train(session: Session, { spec, run }: TrainSettings): Promise<number> {
  const format = run.format === undefined ? undefined : choice('format', FORMATS, run.format.replaceAll('-', '_'));
  if (run.data === undefined) throw new CliError('--data is missing: a JSONL file, or datasets/NAME');
  if (spec.model === undefined) throw new CliError('--model is missing: a registered name or a path');
  // Before the upload: a model that is not there must leave no data set behind.
  await session.client.getModel(spec.model);
  spec.dataset = await datasetOf(session, run.data, 'data', format);
  if (run['eval-data'] !== undefined)
    spec.evalDataset = await datasetOf(session, run['eval-data'], 'eval-data', format);
  if (spec.initAdapter !== undefined) spec.initAdapter = adapterTarget(spec.initAdapter).value;
  const outcome = await followJob(session, (options) => session.client.train(spec, options));
  if (outcome.exitCode !== EXIT.ok) return outcome.exitCode;
  const { adapter } = await session.client.getTrainingJob(outcome.job);
  if (run.export !== undefined) {
    const { path } = await session.client.exportAdapter({ name: adapter, path: resolve(run.export) });
    if (!session.json) await printLines(session, [`exported to ${path}`]);
  }
  if (!session.json) {
    // A server in this process forgets models that were named by path.
    const base = session.embedded ? `--model ${spec.model}` : '';
    const command = ['luthier chat --adapter', adapter.replace(/^adapters\//, ''), base, session.reconnect].filter(
      Boolean,
    );
    await printLines(session, [`chat with it: ${command.join(' ')}`]);
  }
  return outcome.exitCode;
}

/** The command. */
export function trainCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = new Command('train')
    .description(
      "fine-tune an adapter and watch it learn; names, defaults and meaning are those of Hugging Face's Trainer and PEFT",
    )
    .option('--config <file>', 'YAML or JSON with the names of these options');
  withConnection(withTrainingFlags(command));
  return command.action(async (options: ConnectionOptions & { readonly config?: string }) => {
    const file = options.config === undefined ? undefined : readConfigFile(options.config);
    const settings = trainSettings(givenFlags(command), file);
    setExitCode(await withSession(io, options, (session) => train(session, settings)));
  });
}
