/** `luthier models`: list, get, load, unload, quantize. */
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import {
  eachPage,
  type LoadedWeights,
  Model,
  QuantizationType,
  QuantizeModelResponse,
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
import { type Io, print } from '../io.ts';
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

const QUANTIZATION_TYPES = new Map([
  ['nf4', QuantizationType.QUANTIZATION_TYPE_NF4],
  ['nf4-double', QuantizationType.QUANTIZATION_TYPE_NF4_DOUBLE_QUANT],
  ['int8', QuantizationType.QUANTIZATION_TYPE_INT8],
]);

interface QuantizeFlags extends ConnectionOptions {
  readonly to: string;
  readonly out: string;
}

/** Progress goes to a terminal, on one line; what was written is the result. */
async function quantize(session: Session, model: string, { to, out }: QuantizeFlags): Promise<void> {
  const type = QUANTIZATION_TYPES.get(to) ?? QuantizationType.QUANTIZATION_TYPE_UNSPECIFIED;
  const { stderr } = session.io;
  for await (const response of session.client.quantizeModel({ name: modelName(model), type, path: resolve(out) })) {
    const { event } = response;
    if (session.json) await printJson(session, QuantizeModelResponse, response);
    else if (event?.$case === 'finished') {
      await printLines(session, [`quantized to ${event.value.path}, ${formatBytes(event.value.sizeBytes)}`]);
    } else if (event?.$case === 'progress' && stderr.isTTY && event.value.totalBytes > 0) {
      const { writtenBytes, totalBytes } = event.value;
      const end = writtenBytes === totalBytes ? '\n' : '';
      await print(stderr, `\r${formatBytes(writtenBytes)} of ${formatBytes(totalBytes)}${end}`);
    }
  }
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
  const ahead = new Command('quantize').argument('<model>');
  ahead.description("quantize a model ahead of use, into a new folder on the server's machine");
  const types = [...QUANTIZATION_TYPES.keys()];
  ahead.addOption(new Option('--to <type>', 'what linear layers become').choices(types).default('nf4-double'));
  ahead.requiredOption('--out <folder>', 'it must be empty or not exist yet');
  withConnection(ahead).action((model: string, options: QuantizeFlags) =>
    withSession(io, options, (session) => quantize(session, model, options)),
  );
  const all = new Command('list').description('all models the server knows');
  withConnection(all).action((options: ConnectionOptions) => withSession(io, options, list));
  return new Command('models')
    .description('base models')
    .addCommand(all)
    .addCommand(one('get', 'one model; a path registers it', 'getModel'))
    .addCommand(load)
    .addCommand(ahead)
    .addCommand(one('unload', "free a model's memory", 'unloadModel'));
}
