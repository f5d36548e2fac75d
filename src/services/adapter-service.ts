import { sendAdapterFiles } from '../adapters/adapter-transfer.ts';
import { type MergeDependencies, mergeAdapter } from '../adapters/merge-adapter.ts';
import {
  type AdapterServiceService,
  DeleteAdapterRequest,
  DeleteAdapterResponse,
  DownloadAdapterResponse,
  ExportAdapterRequest,
  ExportAdapterResponse,
  ImportAdapterRequest,
  ImportAdapterResponse,
  MergeAdapterRequest,
  MergeAdapterResponse,
} from '../gen/luthier/v1/adapter_service.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import { adapterMessage, takenMessage } from './adapter-message.ts';
import { answerOnce } from './answer-once.ts';
import { pageByName } from './page-token.ts';
import { type UploadAdapterDependencies, uploadAdapter } from './upload-adapter.ts';
import { deleteSchema, exportSchema, getSchema, importSchema, listSchema, mergeSchema } from './validate/adapter.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface AdapterServiceDependencies extends UploadAdapterDependencies {
  readonly merge: MergeDependencies;
}

/** AdapterService: the adapters that were trained here or brought in. */
export function createAdapterService(
  dependencies: AdapterServiceDependencies,
): HandlersOf<typeof AdapterServiceService> {
  const { adapters, requestLog, merge } = dependencies;
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
      return answerOnce(requestLog, call, DeleteAdapterResponse, async (remember) => {
        await adapters.delete(name, (change) => remember(change, () => ({})));
        return {};
      });
    },

    importAdapter: async (request) => {
      const { requestId, adapterId: id, path, baseModel, allowOtherBase } = parseRequest(importSchema, request);
      const bytes = ImportAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'ImportAdapter', request: bytes };
      return answerOnce(requestLog, call, ImportAdapterResponse, async (remember) => {
        const spec = { id, baseModel, allowOtherBase, overwrite: false };
        return takenMessage(
          await adapters.import(path, spec, (change, taken) => remember(change, () => takenMessage(taken))),
        );
      });
    },

    exportAdapter: async (request) => {
      const { name, path, requestId } = parseRequest(exportSchema, request);
      const bytes = ExportAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'ExportAdapter', request: bytes };
      return answerOnce(requestLog, call, ExportAdapterResponse, () => adapters.export(name, path));
    },

    mergeAdapter: async (request) => {
      const { name, requestId, ...spec } = parseRequest(mergeSchema, request);
      const bytes = MergeAdapterRequest.encode(request).finish();
      const call = { requestId, method: 'MergeAdapter', request: bytes };
      return answerOnce(requestLog, call, MergeAdapterResponse, async () => {
        const { warnings, ...written } = await mergeAdapter(merge, { ...spec, adapter: adapters.get(name) });
        return { ...written, warnings: [...warnings] };
      });
    },

    downloadAdapter: async function* (request) {
      const adapter = adapters.get(parseRequest(getSchema, request).name);
      for await (const part of sendAdapterFiles(adapter.folder)) {
        if (part instanceof Uint8Array) yield DownloadAdapterResponse.create({ chunk: Buffer.from(part) });
        else {
          const files = part.map((file) => ({ ...file }));
          yield DownloadAdapterResponse.create({ header: { adapter: adapterMessage(adapter), files } });
        }
      }
    },

    uploadAdapter: (requests) => uploadAdapter(dependencies, requests),
  };
}
