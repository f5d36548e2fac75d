import { parseText } from '../datasets/example-parser.ts';
import { overLengthWarnings } from '../datasets/over-length.ts';
import { chooseExamples, previewExample } from '../datasets/preview-examples.ts';
import { tokenizeDataset } from '../datasets/tokenize-dataset.ts';
import {
  type DatasetServiceService,
  DeleteDatasetRequest,
  DeleteDatasetResponse,
  PreviewExamplesResponse,
  ValidateDatasetResponse,
} from '../gen/luthier/v1/dataset_service.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import type { HandlersOf } from '../rpc/adapter.ts';
import { answerOnce } from './answer-once.ts';
import { datasetMessage, formatNumber } from './dataset-message.ts';
import { pageByName } from './page-token.ts';
import { type UploadDependencies, uploadDataset } from './upload-dataset.ts';
import { deleteSchema, getSchema, listSchema, previewSchema, validateSchema } from './validate/dataset.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface DatasetServiceDependencies extends UploadDependencies {
  readonly registry: ModelRegistry;
}

/** DatasetService: stores data sets, checks them and shows what a model will learn from them. */
export function createDatasetService(
  dependencies: DatasetServiceDependencies,
): HandlersOf<typeof DatasetServiceService> {
  const { datasets, registry, requestLog } = dependencies;
  return {
    uploadDataset: (requests) => uploadDataset(dependencies, requests),

    validateDataset: async (request, { signal }) => {
      const { dataset, ...options } = parseRequest(validateSchema, request);
      const source = datasets.open(dataset);
      const totals = { tokens: 0, labelTokens: 0, shortest: Number.POSITIVE_INFINITY, longest: 0 };
      const result = await tokenizeDataset(
        registry,
        source,
        options,
        (examples) => {
          for (const { inputIds, labelTokens } of examples) {
            totals.tokens += inputIds.length;
            totals.labelTokens += labelTokens;
            totals.shortest = Math.min(totals.shortest, inputIds.length);
            totals.longest = Math.max(totals.longest, inputIds.length);
          }
        },
        signal,
      );
      return ValidateDatasetResponse.create({
        report: {
          ...totals,
          shortest: Number.isFinite(totals.shortest) ? totals.shortest : 0,
          format: formatNumber(source.format),
          examples: result.examples,
          template: result.template === null ? undefined : { ...result.template },
          problems: result.problems.shown.map((problem) => ({ ...problem })),
          problemCount: result.problems.count,
          warnings: overLengthWarnings(result.counts, result.maxSeqLength),
        },
      });
    },

    previewExamples: async (request) => {
      const { source, model, template, trainOn, indices, format } = parseRequest(previewSchema, request);
      const pieces = source.$case === 'inline' ? [parseText(source.value, format)] : datasets.open(source.value).read();
      const examples = await chooseExamples(pieces, indices);
      const tokenizer = await registry.tokenizer(model);
      const exact = examples.every(({ content }) => content.kind === 'tokens');
      const renderer = exact ? null : await registry.renderer(model, template);
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
      return answerOnce(requestLog, call, DeleteDatasetResponse, async () => {
        await datasets.delete(name);
        return {};
      });
    },
  };
}
