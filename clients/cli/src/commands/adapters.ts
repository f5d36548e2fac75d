/** `luthier adapters`: list, get, delete, import, export; see `adapter-files.ts` for the rest. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  Adapter,
  DeleteAdapterResponse,
  ExportAdapterResponse,
  eachPage,
  ImportAdapterResponse,
} from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { formatBytes, formatCount, formatRecord, formatTable } from '../format.ts';
import type { Io } from '../io.ts';
import { modelName, resourceName } from '../names.ts';
import { ALLOW_OTHER_BASE_HELP, adapterFilesCommands, printWarnings } from './adapter-files.ts';

const adapterName = (value: string): string => resourceName('adapters', value);

function describe(adapter: Adapter): string[] {
  return formatRecord([
    ['name', adapter.name],
    ['base model', adapter.baseModel],
    ['r', String(adapter.r)],
    ['lora_alpha', `${adapter.loraAlpha}${adapter.useRslora ? ', rslora' : ''}`],
    ['target modules', adapter.targetModules.join(', ')],
    ['parameters', formatCount(adapter.parameterCount)],
    ['size', formatBytes(adapter.sizeBytes)],
    ['template', adapter.template === undefined ? '' : `${adapter.template.id} ${adapter.template.version}`],
    ['training job', adapter.trainingJob],
    ['sha256', adapter.sha256],
    ['created', adapter.createTime?.toISOString() ?? ''],
  ]);
}

async function list(session: Session): Promise<void> {
  const rows: string[][] = [];
  for await (const { adapters } of eachPage((pageToken) => session.client.listAdapters({ pageToken }))) {
    for (const adapter of adapters) {
      if (session.json) await printJson(session, Adapter, adapter);
      const created = adapter.createTime?.toISOString() ?? '';
      rows.push([adapter.name, adapter.baseModel, String(adapter.r), formatBytes(adapter.sizeBytes), created]);
    }
  }
  if (!session.json) await printLines(session, formatTable(['NAME', 'BASE', 'R', 'SIZE', 'CREATED'], rows));
}

interface ImportFlags extends ConnectionOptions {
  readonly model: string;
  readonly name?: string;
  readonly allowOtherBase?: boolean;
}

async function importFolder(session: Session, folder: string, options: ImportFlags): Promise<void> {
  const response = await session.client.importAdapter({
    path: resolve(folder),
    baseModel: modelName(options.model),
    allowOtherBase: options.allowOtherBase ?? false,
    ...(options.name === undefined ? {} : { adapterId: options.name.replace(/^adapters\//, '') }),
  });
  if (session.json) return printJson(session, ImportAdapterResponse, response);
  await printWarnings(session, response.warnings);
  if (response.adapter !== undefined) await printLines(session, describe(response.adapter));
}

/** The group of commands. */
export function adaptersCommand(io: Io): Command {
  const all = new Command('list').description('all adapters');
  withConnection(all).action((options: ConnectionOptions) => withSession(io, options, list));
  const get = new Command('get').argument('<adapter>').description('one adapter');
  withConnection(get).action((name: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => {
      const adapter = await session.client.getAdapter(adapterName(name));
      await (session.json ? printJson(session, Adapter, adapter) : printLines(session, describe(adapter)));
    }),
  );
  const remove = new Command('delete').argument('<adapter>').description('delete an adapter that nothing uses');
  withConnection(remove).action((name: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => {
      await session.client.deleteAdapter(adapterName(name));
      await (session.json
        ? printJson(session, DeleteAdapterResponse, {})
        : printLines(session, [`deleted ${adapterName(name)}`]));
    }),
  );
  const add = new Command('import')
    .argument('<folder>')
    .description("take a PEFT folder on the server's machine into the store");
  add.requiredOption('--model <name>', 'its base model: a registered name or a path');
  add.option('--name <id>', 'default: chosen by the server');
  add.option('--allow-other-base', ALLOW_OTHER_BASE_HELP);
  withConnection(add).action((folder: string, options: ImportFlags) =>
    withSession(io, options, (session) => importFolder(session, folder, options)),
  );
  const write = new Command('export').argument('<adapter>').argument('<folder>');
  write.description("write a PEFT folder on the server's machine; it must be empty or not exist yet");
  withConnection(write).action((name: string, folder: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => {
      const response = await session.client.exportAdapter({ name: adapterName(name), path: resolve(folder) });
      if (session.json) return printJson(session, ExportAdapterResponse, response);
      await printLines(session, [`exported to ${response.path}, ${formatBytes(response.sizeBytes)}`]);
    }),
  );
  const group = new Command('adapters').description('what training makes: LoRA adapters, as PEFT files');
  for (const command of [all, get, remove, add, write, ...adapterFilesCommands(io)]) group.addCommand(command);
  return group;
}
