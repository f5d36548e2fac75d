/** `luthier models`: list, get, load, unload. */
import { Command } from 'commander';
import { eachPage, type LoadedWeights, Model } from '../../../typescript/src/index.ts';
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
import { modelName } from '../names.ts';
import { LOAD_IN_HELP, loadInOf } from '../training-flags.ts';

const loadedRow = ({ storageType, loadedBytes, users }: LoadedWeights) =>
  ['loaded', `${formatBytes(loadedBytes)}, linear layers in ${storageType}, ${users} users`] as const;

async function show(session: Session, model: Model): Promise<void> {
  if (session.json) return printJson(session, Model, model);
  await printLines(
    session,
    formatRecord([
      ['name', model.name],
      ['path', model.path],
      ['architecture', `${model.architecture}, ${model.numHiddenLayers} layers of ${model.hiddenSize}`],
      ['parameters', formatCount(model.parameterCount)],
      ['stored', `${formatBytes(model.storedBytes)} of ${model.format}`],
      ['type', model.storageType],
      ['context', `${model.maxPositionEmbeddings} tokens of ${model.vocabSize}`],
      ['chat template', model.hasChatTemplate ? 'yes' : 'no'],
      ['linear modules', model.linearModules.join(', ')],
      ...(model.loaded ? model.loadedWeights.map(loadedRow) : [['loaded', 'no'] as const]),
      ['hash', model.contentHash],
    ]),
  );
}

async function list(session: Session): Promise<void> {
  const rows: string[][] = [];
  for await (const { models } of eachPage((pageToken) => session.client.listModels({ pageToken }))) {
    for (const model of models) {
      if (session.json) await printJson(session, Model, model);
      const loaded = model.loaded ? formatBytes(model.loadedBytes) : '';
      rows.push([
        model.name,
        model.architecture,
        formatCount(model.parameterCount),
        model.storageType,
        loaded,
        model.path,
      ]);
    }
  }
  const headings = ['NAME', 'ARCHITECTURE', 'PARAMETERS', 'TYPE', 'LOADED', 'PATH'];
  if (!session.json) await printLines(session, formatTable(headings, rows));
}

/** The group of commands. */
export function modelsCommand(io: Io): Command {
  const one = (name: string, description: string, call: 'getModel' | 'unloadModel') =>
    withConnection(new Command(name).argument('<model>').description(description)).action(
      (model: string, options: ConnectionOptions) =>
        withSession(io, options, async (session) => show(session, await session.client[call](modelName(model)))),
    );
  const load = new Command('load').argument('<model>').description('bring a model into memory');
  withConnection(load.option('--load-in <type>', LOAD_IN_HELP)).action(
    (model: string, options: ConnectionOptions & { readonly loadIn?: string }) => {
      const loadIn = loadInOf(options.loadIn);
      return withSession(io, options, async (session) =>
        show(session, await session.client.loadModel(modelName(model), { loadIn })),
      );
    },
  );
  const all = new Command('list').description('all models the server knows');
  withConnection(all).action((options: ConnectionOptions) => withSession(io, options, list));
  return new Command('models')
    .description('base models')
    .addCommand(all)
    .addCommand(one('get', 'one model; a path registers it', 'getModel'))
    .addCommand(load)
    .addCommand(one('unload', "free a model's memory", 'unloadModel'));
}
