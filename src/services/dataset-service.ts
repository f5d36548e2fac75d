import { NO_HINTS } from '../datasets/file-layout.ts';
import { defaultTemplate, type FormatName } from '../datasets/formats.ts';
import { chooseExamples, previewExample } from '../datasets/preview-examples.ts';
import { type FilePiece, readText } from '../datasets/read-examples.ts';
import {
  type DatasetServiceService,
  DeleteDatasetRequest,
  DeleteDatasetResponse,
  PreviewExamplesResponse,
} from '../gen/luthier/v1/dataset_service.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import { answerOnce } from './answer-once.ts';
import { type CheckDependencies, checkDataset, validateDataset } from './check-dataset.ts';
import { datasetMessage } from './dataset-message.ts';
import { pageByName } from './page-token.ts';
import { type UploadDependencies, uploadDataset } from './upload-dataset.ts';
import { deleteSchema, getSchema, listSchema, previewSchema } from './validate/dataset.ts';
import { parseRequest } from './validate/parse-request.ts';

/** A text that is not stored, as one piece. */
async function* inlinePieces(text: string, format: FormatName | null) {
  const piece = await readText(text, { ...NO_HINTS, format });
  if (piece !== null) yield piece;
}

/** Passes pieces on; the format is known after the first example. */
async function* rememberFormat(pieces: AsyncIterable<FilePiece>, layout: { format: FormatName | null }) {
  for await (const piece of pieces) {
    layout.format = piece.layout.format;
    yield piece;
  }
}

export interface DatasetServiceDependencies extends UploadDependencies, CheckDependencies {}

/** DatasetService: stores data sets, checks them and shows what a model will learn from them. */
export function createDatasetService(
  dependencies: DatasetServiceDependencies,
): HandlersOf<typeof DatasetServiceService> {
  const { datasets, registry, requestLog } = dependencies;
  return {
    uploadDataset: (requests, { signal }) => uploadDataset(dependencies, requests, signal),

    validateDataset: async (request, { signal }) => ({ report: await validateDataset(dependencies, request, signal) }),

    checkDataset: (requests, { signal }) => checkDataset(dependencies, requests, signal),

    previewExamples: async (request, { signal }) => {
      const { source, model, template, trainOn, indices, format } = parseRequest(previewSchema, request);
      const pieces =
        source.$case === 'inline' ? inlinePieces(source.value, format) : datasets.open(source.value).read(signal);
      const layout = { format };
      const examples = await chooseExamples(rememberFormat(pieces, layout), indices);
      const tokenizer = await registry.tokenizer(model);
      const exact = examples.every(({ content }) => content.kind === 'tokens');
      const chosen = layout.format === null ? template : defaultTemplate(layout.format, template);
      const renderer = exact ? null : await registry.renderer(model, chosen);
      return PreviewExamplesResponse.create({
        examples: examples.map((example) => {
          const preview = previewExample(example, tokenizer, renderer, trainOn);
          return { ...preview, tokens: [...preview.tokens] };
        }),
        template: renderer === null ? undefined : { ...renderer.template },
      });
    },

    getDataset: async (request) => ({ dataset: datasetMessage(datasets.get(parseRequest(getSchema, request).name)) }),

    listDatasets: async (request) => {
      const { items, nextPageToken } = pageByName(parseRequest(listSchema, request), 'datasets/', (after, count) =>
        datasets.list(after, count),
      );
      return { datasets: items.map(datasetMessage), nextPageToken };
    },

    deleteDataset: async (request) => {
      const { name, requestId } = parseRequest(deleteSchema, request);
      const bytes = DeleteDatasetRequest.encode(request).finish();
      const call = { requestId, method: 'DeleteDataset', request: bytes };
      return answerOnce(requestLog, call, DeleteDatasetResponse, async (remember) => {
        await datasets.delete(name, (change) => remember(change, () => ({})));
        return {};
      });
    },
  };
}
