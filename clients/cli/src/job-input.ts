/** What `train` and `estimate` share: the options that describe a job, and the data it is about. */
import { statSync } from 'node:fs';
import type { Command } from 'commander';
import { readConfigFile } from './config-file.ts';
import { printLines, type Session } from './connection.ts';
import { deleteUploads } from './delete-uploads.ts';
import { CliError } from './failure.ts';
import { type FileOptions, fileOptions } from './file-options.ts';
import { adapterTarget } from './names.ts';
import { TRAIN_OPTIONS_NOT_BUILT } from './not-built.ts';
import { RUN_FLAGS, type TrainSettings, trainSettings } from './train-settings.ts';
import { type SpecDraft, TRAINING_FLAGS } from './training-flags.ts';

/** Options of the connection and of these commands that do not describe the job. */
const OTHER = new Set(['server', 'embedded', 'dataDir', 'device', 'threads', 'timeout', 'json', 'config']);

/** Every value of an option that may be repeated. */
export const appended = (value: string, earlier: string[] = []): string[] => [...earlier, value];

const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

/** Adds every flag of the table, and those that are only there to be refused by name. */
export function withTrainingFlags(command: Command): Command {
  command.option('--config <file>', 'YAML or JSON with the names of these options');
  for (const [name, help] of Object.entries(RUN_FLAGS)) command.option(`--${name} <value>`, help);
  for (const { name, kind, help } of TRAINING_FLAGS) {
    if (kind === 'labels') command.option(`--${name} <value>`, help, appended);
    else if (name === 'shuffle') command.option('--no-shuffle', 'keep the order of the file');
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

/** The settings of a command with training flags. */
export function settingsOf(command: Command): TrainSettings {
  const { config } = command.opts<{ readonly config?: string }>();
  return trainSettings(givenFlags(command), config === undefined ? undefined : readConfigFile(config));
}

/** A job's spec, and the data sets that were stored for it. */
interface JobInput {
  readonly spec: SpecDraft;
  readonly uploaded: readonly string[];
}

/** Uploads the files that the settings name, and completes the spec. */
export async function uploadInput(session: Session, { spec, run }: TrainSettings): Promise<JobInput> {
  const { format, container, columns } = run;
  const flags = { format, container, columns, ignoreColumns: run['ignore-columns'] };
  if (run.data === undefined) throw new CliError('--data is missing: a file of examples, or datasets/NAME');
  if (spec.model === undefined) throw new CliError('--model is missing: a registered name or a path');
  // Before the upload: a model that is not there must leave no data set behind.
  await session.client.getModel(spec.model);
  const uploaded: string[] = [];
  try {
    spec.dataset = await datasetOf(session, run.data, 'data', fileOptions(flags, run.data), uploaded);
    const evalData = run['eval-data'];
    if (evalData !== undefined)
      spec.evalDataset = await datasetOf(session, evalData, 'eval-data', fileOptions(flags, evalData), uploaded);
  } catch (error) {
    await deleteUploads(session, uploaded);
    throw error;
  }
  if (spec.initAdapter !== undefined) spec.initAdapter = adapterTarget(spec.initAdapter).value;
  return { spec, uploaded };
}

async function datasetOf(
  session: Session,
  value: string,
  flag: string,
  file: FileOptions,
  uploaded: string[],
): Promise<string> {
  if (value.startsWith('datasets/')) return value;
  const isFile = statSync(value, { throwIfNoEntry: false })?.isFile() === true;
  if (!isFile)
    throw new CliError(`--${flag} ${value}: there is no such file; stored data sets are named datasets/NAME`);
  const { name, examples } = await session.client.uploadDatasetFile(value, file);
  uploaded.push(name);
  if (!session.json) await printLines(session, [`uploaded ${value} as ${name}, ${examples} examples`]);
  return name;
}
