import { z } from 'zod';
import type { Engine, WeightStorage } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import {
  GetServerInfoResponse,
  Gpu,
  type ModelServiceService,
  QuantizationType,
} from '../gen/luthier/v1/model_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { quantizeModel } from '../models/quantize-model.ts';
import { TEMPLATE_NAMES } from '../prompt/template-names.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import { modelMessage } from './model-message.ts';
import { loadInField, member, page, requestId, resourceName } from './validate/fields.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface ModelServiceDependencies {
  readonly registry: ModelRegistry;
  readonly engine: Pick<Engine, 'info' | 'quantizeModel'>;
  readonly version: string;
  readonly maxMessageBytes: number;
  readonly modelRoots: readonly string[];
  readonly exportRoots: readonly string[];
  readonly jobCounts: () => Promise<{ readonly queued: number; readonly running: number }>;
  readonly activeGenerations: () => number;
}

const DEFAULT_PAGE_SIZE = 50;

const name = resourceName('a model: `models/{id}` or a path');
const listSchema = z.object(page);
const getSchema = z.object({ name });
const loadSchema = z.object({ name, requestId, loadIn: loadInField });
const unloadSchema = z.object({ name, requestId });

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

/** The name behind a page token: the last one of the page before. */
function nameOfToken(token: string): string {
  if (token === '') return '';
  const last = Buffer.from(token, 'base64url').toString();
  if (last.startsWith('models/')) return last;
  throw new LuthierError('INVALID_REQUEST', 'page_token is none that ListModels gave', {
    violations: [{ field: 'page_token', description: 'expected a next_page_token of ListModels', reason: '' }],
  });
}

/** ModelService over the registry. */
export function createModelService(dependencies: ModelServiceDependencies): HandlersOf<typeof ModelServiceService> {
  const { registry, engine } = dependencies;
  return {
    listModels: async (request) => {
      const { pageSize, pageToken } = parseRequest(listSchema, request);
      const after = nameOfToken(pageToken);
      await registry.ready();
      const rest = registry.list().filter((model) => model.name > after);
      const shown = rest.slice(0, pageSize === 0 ? DEFAULT_PAGE_SIZE : pageSize);
      const last = rest.length > shown.length ? (shown.at(-1)?.name ?? '') : '';
      return {
        models: await Promise.all(shown.map(modelMessage)),
        nextPageToken: Buffer.from(last).toString('base64url'),
      };
    },

    getModel: async (request) => {
      const { name } = parseRequest(getSchema, request);
      return { model: await modelMessage(await registry.get(name)) };
    },

    // Loading what is loaded changes nothing, so `request_id` has nothing to remember; the same holds for unloading.
    loadModel: async (request) => {
      const { name, loadIn } = parseRequest(loadSchema, request);
      const lease = await registry.acquire(name, loadIn);
      lease.release();
      const model = await modelMessage(await registry.get(lease.registered.name));
      return { model: { ...model, storageType: lease.model.storageType } };
    },

    unloadModel: async (request) => {
      const { name } = parseRequest(unloadSchema, request);
      return { model: await modelMessage(await registry.unload(name)) };
    },

    quantizeModel: async function* (request, { signal }) {
      const { name, type, path } = parseRequest(quantizeSchema, request);
      const { metadata } = await registry.get(name);
      const storage = quantizedStorage(type);
      const roots = dependencies.exportRoots;
      yield* quantizeModel({ engine, base: metadata.path, storage, path, roots, signal });
    },

    getServerInfo: async () => {
      const info = engine.info();
      const jobs = await dependencies.jobCounts();
      return GetServerInfoResponse.create({
        version: dependencies.version,
        device: info.device,
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
