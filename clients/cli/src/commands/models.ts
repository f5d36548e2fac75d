/** `luthier models`: list, get, import, delete, load, unload, quantize. */
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import {
  DeleteModelResponse,
  eachPage,
  type LoadedWeights,
  LoadIn,
  Model,
  QuantizationType,
  QuantizeModelResponse,
  type WeightMemory,
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
import { printWarnings } from './adapter-files.ts';

const loadedRow = ({ storageType, loadedBytes, users }: LoadedWeights) =>
  ['loaded', `${formatBytes(loadedBytes)}, linear layers in ${storageType}, ${users} users`] as const;

/** In the order in which `weight_memory` has them. */
const FORM_NAMES: ReadonlyMap<LoadIn, string> = new Map([
  [LoadIn.LOAD_IN_STORED, 'stored'],
  [LoadIn.LOAD_IN_16BIT, '16bit'],
  [LoadIn.LOAD_IN_8BIT, '8bit'],
  [LoadIn.LOAD_IN_4BIT, '4bit'],
  [LoadIn.LOAD_IN_4BIT_PLAIN, '4bit-plain'],
]);

/** Such as `16bit 256.6 MiB`, by form. */
function weightMemory(model: Model): ReadonlyMap<string, string> {
  const named = ({ loadIn, weightBytes }: WeightMemory) =>
    [FORM_NAMES.get(loadIn) ?? '', formatBytes(weightBytes)] as const;
  return new Map(model.weightMemory.map(named));
}

const memoryText = (model: Model): string =>
  [...weightMemory(model)].map(([form, bytes]) => `${form} ${bytes}`).join(', ') || 'unknown: the files cannot be read';

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
      ['memory', memoryText(model)],
      ['context', `${model.maxPositionEmbeddings} tokens of ${model.vocabSize}`],
      ['chat template', model.hasChatTemplate ? 'yes' : 'no'],
      ['linear modules', model.linearModules.join(', ')],
      ...(model.loaded ? model.loadedWeights.map(loadedRow) : [['loaded', 'no'] as const]),
      ['imported', model.importTime?.toISOString() ?? 'no'],
      ['hash', model.contentHash],
    ]),
  );
  if (model.changed !== '') await printWarnings(session, [model.changed]);
}

async function list(session: Session): Promise<void> {
  const rows: string[][] = [];
  const changes: string[] = [];
  for await (const { models } of eachPage((pageToken) => session.client.listModels({ pageToken }))) {
    for (const model of models) {
      if (session.json) await printJson(session, Model, model);
      if (model.changed !== '') changes.push(model.changed);
      const memory = weightMemory(model);
      rows.push([
        model.name,
        model.architecture,
        formatCount(model.parameterCount),
        model.storageType,
        String(model.maxPositionEmbeddings),
        ...[...FORM_NAMES.values()].map((form) => memory.get(form) ?? ''),
        model.loaded ? formatBytes(model.loadedBytes) : '',
        model.path,
      ]);
    }
  }
  const forms = [...FORM_NAMES.values()].map((form) => form.toUpperCase());
  const headings = ['NAME', 'ARCHITECTURE', 'PARAMETERS', 'TYPE', 'CONTEXT', ...forms, 'LOADED', 'PATH'];
  if (session.json) return;
  await printLines(session, formatTable(headings, rows));
  await printWarnings(session, changes);
}

interface ImportFlags extends ConnectionOptions {
  readonly name?: string;
}

async function importPath(session: Session, path: string, { name }: ImportFlags): Promise<void> {
  const modelId = name?.replace(/^models\//, '') ?? '';
  await show(session, await session.client.importModel({ path: resolve(path), modelId }));
}

async function remove(session: Session, model: string): Promise<void> {
  const response = await session.client.deleteModel(modelName(model));
  if (session.json) return printJson(session, DeleteModelResponse, response);
  await printWarnings(session, response.warnings);
  await printLines(session, [`deleted ${modelName(model)}; its files stay where they are`]);
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
  const add = new Command('import').argument('<path>');
  add.description("remember a GGUF file or a Hugging Face folder on the server's machine; nothing is copied");
  add.option('--name <id>', "default: made from the path's");
  withConnection(add).action((path: string, options: ImportFlags) =>
    withSession(io, options, (session) => importPath(session, path, options)),
  );
  const forget = new Command('delete').argument('<model>');
  forget.description('forget an import that nothing uses; its files stay');
  withConnection(forget).action((model: string, options: ConnectionOptions) =>
    withSession(io, options, (session) => remove(session, model)),
  );
  const all = new Command('list').description('all models the server knows');
  withConnection(all).action((options: ConnectionOptions) => withSession(io, options, list));
  return new Command('models')
    .description('base models')
    .addCommand(all)
    .addCommand(one('get', 'one model, by name or path', 'getModel'))
    .addCommand(add)
    .addCommand(forget)
    .addCommand(load)
    .addCommand(ahead)
    .addCommand(one('unload', "free a model's memory", 'unloadModel'));
}
