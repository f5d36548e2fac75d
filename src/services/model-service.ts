import { z } from 'zod';
import { MODEL_ID } from '../config/schema.ts';
import type { Engine, WeightStorage } from '../engine/engine.ts';
import {
  DeleteModelRequest,
  DeleteModelResponse,
  GetServerInfoResponse,
  Gpu,
  ImportModelRequest,
  ImportModelResponse,
  type ModelServiceService,
  QuantizationType,
} from '../gen/luthier/v1/model_service.ts';
import type { KnownModel, ModelRegistry } from '../models/model-registry.ts';
import { quantizeModel } from '../models/quantize-model.ts';
import { TEMPLATE_NAMES } from '../prompt/template-names.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import type { RequestLog } from '../store/request-log.ts';
import type { WritingFolders } from '../store/writing-folders.ts';
import { answerOnce } from './answer-once.ts';
import { modelMessage } from './model-message.ts';
import { pageByName } from './page-token.ts';
import { expected, loadInField, member, page, requestId, resourceName } from './validate/fields.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface ModelServiceDependencies {
  readonly registry: ModelRegistry;
  readonly engine: Pick<Engine, 'info' | 'quantizeModel' | 'weightBytes'>;
  readonly requestLog: RequestLog;
  /** Names of the stored adapters whose base is `models/{id}`. */
  readonly adaptersOf: (model: string) => readonly string[];
  readonly version: string;
  readonly maxMessageBytes: number;
  readonly modelRoots: readonly string[];
  readonly exportRoots: readonly string[];
  readonly writing: WritingFolders;
  readonly jobCounts: () => Promise<{ readonly queued: number; readonly running: number }>;
  readonly activeGenerations: () => number;
}

const name = resourceName('a model: `models/{id}` or a path');
const listSchema = z.object(page);
const getSchema = z.object({ name });
const loadSchema = z.object({ name, requestId, loadIn: loadInField });
const unloadSchema = z.object({ name, requestId });
const deleteSchema = z.object({ name, requestId });
const importSchema = z.object({
  requestId,
  modelId: z
    .string()
    .refine(
      (id) => id === '' || MODEL_ID.test(id),
      expected('at most 63 letters, digits, ".", "_" and "-", the first a letter or digit'),
    ),
  path: resourceName('a path: a .gguf file or a Hugging Face folder'),
});

const quantizeSchema = z.object({
  name,
  type: member(QuantizationType, `one of ${Object.keys(QuantizationType).join(', ')}`),
  path: resourceName('a folder to write'),
});

function quantizedStorage(type: QuantizationType): WeightStorage {
  switch (type) {
    case QuantizationType.QUANTIZATION_TYPE_NF4:
      return 'nf4';
    case QuantizationType.QUANTIZATION_TYPE_INT8:
      return 'int8';
    default:
      return 'nf4_double_quant';
  }
}

/** ModelService over the registry. */
export function createModelService(dependencies: ModelServiceDependencies): HandlersOf<typeof ModelServiceService> {
  const { registry, engine, requestLog } = dependencies;
  const message = (model: KnownModel) => modelMessage({ engine, registry }, model);
  const deletedMessage = (deleted: string): DeleteModelResponse => {
    const left = dependencies.adaptersOf(deleted);
    const warning = `${left.join(', ')} ${left.length === 1 ? 'has' : 'have'} ${deleted} as base: import it again under this name, or name its path as model, to use ${left.length === 1 ? 'it' : 'them'}`;
    return { warnings: left.length === 0 ? [] : [warning] };
  };
  return {
    listModels: async (request) => {
      const page = parseRequest(listSchema, request);
      await registry.ready();
      const all = registry.list();
      const { items, nextPageToken } = pageByName(page, 'models/', (after, count) =>
        all.filter(({ name }) => name > after).slice(0, count),
      );
      return { models: await Promise.all(items.map(message)), nextPageToken };
    },

    getModel: async (request) => {
      const { name } = parseRequest(getSchema, request);
      return { model: await message(await registry.get(name)) };
    },

    importModel: async (request) => {
      const { requestId, modelId, path } = parseRequest(importSchema, request);
      const call = { requestId, method: 'ImportModel', request: ImportModelRequest.encode(request).finish() };
      return answerOnce(requestLog, call, ImportModelResponse, async () => ({
        model: await message(await registry.import(path, modelId)),
      }));
    },

    deleteModel: async (request) => {
      const { name, requestId } = parseRequest(deleteSchema, request);
      const call = { requestId, method: 'DeleteModel', request: DeleteModelRequest.encode(request).finish() };
      return answerOnce(requestLog, call, DeleteModelResponse, async (remember) => {
        const deleted = await registry.delete(name, (change, model) => remember(change, () => deletedMessage(model)));
        return deletedMessage(deleted);
      });
    },

    // Loading what is loaded changes nothing, so `request_id` has nothing to remember; the same holds for unloading.
    loadModel: async (request) => {
      const { name, loadIn } = parseRequest(loadSchema, request);
      const lease = await registry.acquire(name, loadIn);
      lease.release();
      const model = await message(await registry.get(lease.registered.name));
      return { model: { ...model, storageType: lease.model.storageType } };
    },

    unloadModel: async (request) => {
      const { name } = parseRequest(unloadSchema, request);
      return { model: await message(await registry.unload(name)) };
    },

    quantizeModel: async function* (request, { signal }) {
      const { name, type, path } = parseRequest(quantizeSchema, request);
      await registry.checkFiles(name);
      const { metadata } = await registry.get(name);
      const storage = quantizedStorage(type);
      const { exportRoots: roots, writing } = dependencies;
      yield* quantizeModel({ engine, base: metadata.path, storage, path, roots, writing, signal });
    },

    getServerInfo: async () => {
      const info = engine.info();
      const jobs = await dependencies.jobCounts();
      return GetServerInfoResponse.create({
        version: dependencies.version,
        device: info.device,
        devices: [...info.devices],
        deviceName: info.deviceName,
        threads: info.threads,
        instructionSet: info.instructionSet,
        totalMemoryBytes: info.totalMemoryBytes,
        maxReceiveBytes: dependencies.maxMessageBytes,
        queuedJobs: jobs.queued,
        runningJobs: jobs.running,
        activeGenerations: dependencies.activeGenerations(),
        templates: [...TEMPLATE_NAMES],
        modelRoots: [...dependencies.modelRoots],
        exportRoots: [...dependencies.exportRoots],
        deviceReason: info.deviceReason,
        attention: info.attention,
        gpus: info.gpus.map((gpu) => Gpu.create({ ...gpu, problem: gpu.problem ?? '' })),
      });
    },
  };
}
