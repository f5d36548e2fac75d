/** `luthier datasets`: upload, list, get, delete. */
import { Command } from 'commander';
import { Dataset, DeleteDatasetResponse, eachPage } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { type FileFlags, fileOptions, withFileFlags } from '../file-options.ts';
import { formatBytes, formatRecord, formatTable } from '../format.ts';
import type { Io } from '../io.ts';
import { resourceName } from '../names.ts';
import { describeLayout } from '../view/dataset-report.ts';

const datasetName = (value: string): string => resourceName('datasets', value);

function columnsOf({ columns }: Dataset): [string, string][] {
  if (columns === undefined) return [];
  const mapped = Object.entries(columns.mapped).map(([field, column]) => `${field}=${column}`);
  return [['columns', [...mapped, ...columns.ignored.map((column) => `without ${column}`)].join(', ')]];
}

async function show(session: Session, dataset: Dataset): Promise<void> {
  if (session.json) return printJson(session, Dataset, dataset);
  await printLines(
    session,
    formatRecord([
      ['name', dataset.name],
      ['format', describeLayout(dataset)],
      ...columnsOf(dataset),
      ['examples', String(dataset.examples)],
      ['size', formatBytes(dataset.sizeBytes)],
      ['sha256', dataset.sha256],
      ['created', dataset.createTime?.toISOString() ?? ''],
    ]),
  );
}

async function list(session: Session): Promise<void> {
  const rows: string[][] = [];
  for await (const { datasets } of eachPage((pageToken) => session.client.listDatasets({ pageToken }))) {
    for (const dataset of datasets) {
      if (session.json) await printJson(session, Dataset, dataset);
      rows.push([dataset.name, describeLayout(dataset), String(dataset.examples), formatBytes(dataset.sizeBytes)]);
    }
  }
  if (!session.json) await printLines(session, formatTable(['NAME', 'FORMAT', 'EXAMPLES', 'SIZE'], rows));
}

interface UploadFlags extends ConnectionOptions, FileFlags {
  readonly name?: string;
}

/** The group of commands. */
export function datasetsCommand(io: Io): Command {
  const upload = new Command('upload')
    .argument('<file>')
    .description('store a file of examples: JSONL, JSON, CSV or Parquet, compressed or not');
  upload.option('--name <id>', 'default: chosen by the server');
  withConnection(withFileFlags(upload)).action(async (file: string, options: UploadFlags) => {
    const datasetId = options.name?.replace(/^datasets\//, '');
    await withSession(io, options, async (session) =>
      show(session, await session.client.uploadDatasetFile(file, { datasetId, ...fileOptions(options, file) })),
    );
  });
  const get = new Command('get').argument('<dataset>').description('one data set');
  withConnection(get).action((name: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => show(session, await session.client.getDataset(datasetName(name)))),
  );
  const remove = new Command('delete')
    .argument('<dataset>')
    .description('delete a data set that no unfinished job uses');
  withConnection(remove).action((name: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => {
      await session.client.deleteDataset(datasetName(name));
      await (session.json
        ? printJson(session, DeleteDatasetResponse, {})
        : printLines(session, [`deleted ${datasetName(name)}`]));
    }),
  );
  const all = new Command('list').description('all data sets');
  withConnection(all).action((options: ConnectionOptions) => withSession(io, options, list));
  return new Command('datasets')
    .description('stored data sets')
    .addCommand(upload)
    .addCommand(all)
    .addCommand(get)
    .addCommand(remove);
}
