import type { StoredAdapter } from '../adapters/adapter-store.ts';
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import {
  Adapter,
  type AdapterServiceService,
  DeleteAdapterRequest,
  DeleteAdapterResponse,
  ExportAdapterRequest,
  ExportAdapterResponse,
  ImportAdapterRequest,
  ImportAdapterResponse,
} from '../gen/luthier/v1/adapter_service.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import type { RequestLog } from '../store/request-log.ts';
import { answerOnce } from './answer-once.ts';
import { pageByName } from './page-token.ts';
import { deleteSchema, exportSchema, getSchema, importSchema, listSchema } from './validate/adapter.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface AdapterServiceDependencies {
  readonly adapters: ManagedAdapterStore;
  readonly requestLog: RequestLog;
}

/** A stored adapter as the contract shows it. */
function adapterMessage({ info, origin, ...adapter }: StoredAdapter): Adapter {
  const { templateId: id, templateHash: hash } = origin;
  return Adapter.create({
    name: adapter.name,
    baseModel: adapter.baseModel,
    baseModelHash: origin.baseModelHash,
    r: info.r,
    loraAlpha: info.loraAlpha,
    useRslora: info.useRslora,
    targetModules: [...info.targetModules],
    parameterCount: info.parameterCount,
    sizeBytes: adapter.sizeBytes,
    sha256: info.sha256,
    template: id === '' ? undefined : { id, version: adapter.templateVersion, hash },
    trainingJob: adapter.trainingJob,
    createTime: adapter.createTime,
  });
}

/** AdapterService: the adapters that were trained here or brought in. */
export function createAdapterService({
  adapters,
  requestLog,
}: AdapterServiceDependencies): HandlersOf<typeof AdapterServiceService> {
  return {
    getAdapter: async (request) => ({ adapter: adapterMessage(adapters.get(parseRequest(getSchema, request).name)) }),

    listAdapters: async (request) => {
      const { items, nextPageToken } = pageByName(parseRequest(listSchema, request), 'adapters/', (after, count) =>
        adapters.list(after, count),
      );
      return { adapters: items.map(adapterMessage), nextPageToken };
    },

    deleteAdapter: async (request) => {
      const { name, requestId } = parseRequest(deleteSchema, request);
      const bytes = DeleteAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'DeleteAdapter', request: bytes };
      return answerOnce(requestLog, call, DeleteAdapterResponse, async () => {
        await adapters.delete(name);
        return {};
      });
    },

    importAdapter: async (request) => {
      const { requestId, adapterId: id, path, baseModel } = parseRequest(importSchema, request);
      const bytes = ImportAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'ImportAdapter', request: bytes };
      return answerOnce(requestLog, call, ImportAdapterResponse, async () => {
        const { adapter, warnings } = await adapters.import({ id, path, baseModel });
        return { adapter: adapterMessage(adapter), warnings: [...warnings] };
      });
    },

    exportAdapter: async (request) => {
      const { name, path, requestId } = parseRequest(exportSchema, request);
      const bytes = ExportAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'ExportAdapter', request: bytes };
      return answerOnce(requestLog, call, ExportAdapterResponse, () => adapters.export(name, path));
    },
  };
}
