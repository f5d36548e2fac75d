/** What a command says about a file of examples: its format, what holds it, and its columns. */
import type { Command } from 'commander';
import { type DatasetColumns, DatasetContainer, type DatasetFormat } from '../../typescript/src/index.ts';
import { CliError } from './failure.ts';
import { choice, FORMATS } from './training-flags.ts';

/** The flags, as texts. */
export interface FileFlags {
  readonly format?: string | undefined;
  readonly container?: string | undefined;
  readonly columns?: string | undefined;
  readonly ignoreColumns?: string | undefined;
}

/** What the contract is told. */
export interface FileOptions {
  readonly format: DatasetFormat | undefined;
  readonly container: DatasetContainer | undefined;
  readonly columns: DatasetColumns | undefined;
}

const CONTAINERS = {
  jsonl: DatasetContainer.DATASET_CONTAINER_JSONL,
  json: DatasetContainer.DATASET_CONTAINER_JSON,
  csv: DatasetContainer.DATASET_CONTAINER_CSV,
  parquet: DatasetContainer.DATASET_CONTAINER_PARQUET,
};

/** Help by flag. */
export const FILE_FLAGS_HELP = {
  format: `${Object.keys(FORMATS).join(', ')} (default: detected)`,
  container: `${Object.keys(CONTAINERS).join(', ')} (default: detected); gzip and zstd are always detected`,
  columns: "the file's columns by the format's fields: prompt=question,completion=answer",
  'ignore-columns': 'columns of the file to leave out: id,source',
} as const;

/** Adds the flags to a command that takes a file. */
export function withFileFlags(command: Command): Command {
  for (const [name, help] of Object.entries(FILE_FLAGS_HELP)) command.option(`--${name} <value>`, help);
  return command;
}

const namesIn = (text: string): string[] => text.split(',').map((name) => name.trim());

function mappedIn(text: string): Record<string, string> {
  const pairs = namesIn(text).map((pair) => {
    const at = pair.indexOf('=');
    const [field, column] = [pair.slice(0, Math.max(at, 0)).trim(), pair.slice(at + 1).trim()];
    if (at > 0 && field !== '' && column !== '') return [field, column] as const;
    throw new CliError(`--columns: expected FIELD=COLUMN, such as prompt=question; found ${JSON.stringify(pair)}`);
  });
  return Object.fromEntries(pairs);
}

/** A table by its name: its columns may have any names, by which it could not be told from text. */
const isTable = (path: string): boolean => /\.[ct]sv(\.(gz|zst))?$/i.test(path);

/** @param path Of the file, whose ending may say what holds it. @throws CliError for a value that none of them has */
export function fileOptions(flags: FileFlags, path: string): FileOptions {
  const { format, columns, ignoreColumns } = flags;
  const container = flags.container ?? (isTable(path) ? 'csv' : undefined);
  return {
    format: format === undefined ? undefined : choice('format', FORMATS, format.replaceAll('-', '_')),
    container: container === undefined ? undefined : choice('container', CONTAINERS, container),
    columns:
      columns === undefined && ignoreColumns === undefined
        ? undefined
        : {
            mapped: columns === undefined ? {} : mappedIn(columns),
            ignored: ignoreColumns === undefined ? [] : namesIn(ignoreColumns),
          },
  };
}

/** @throws CliError where there are any for a stored data set, which has its own */
export function refuseFileOptions(data: string, file: FileOptions): void {
  const given = Object.values(file).some((value) => value !== undefined);
  if (given) throw new CliError(`${data} is no file: --format, --container and --columns belong to a file's upload`);
}
