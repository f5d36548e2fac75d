/** UploadDataset's stream: a header, then the file. */
import { randomUUID } from 'node:crypto';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import { datasetExists } from '../datasets/dataset-store.ts';
import { type ReceivedUpload, receiveUpload } from '../datasets/receive-upload.ts';
import {
  UploadDatasetHeader,
  type UploadDatasetRequest,
  UploadDatasetResponse,
} from '../gen/luthier/v1/dataset_service.ts';
import type { RequestLog } from '../store/request-log.ts';
import { answerOnce } from './answer-once.ts';
import { datasetMessage } from './dataset-message.ts';
import { takeChunks, takeHeader } from './upload-parts.ts';
import { uploadHeaderSchema } from './validate/dataset.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface UploadDependencies {
  readonly datasets: DatasetStore;
  readonly requestLog: RequestLog;
  readonly maxDatasetBytes: number;
}

/** What a request_id stands for: the header, and the file by its hash. */
function requestBytes(header: UploadDatasetHeader, { sha256 }: ReceivedUpload): Uint8Array {
  return UploadDatasetHeader.encode({ ...header, sha256 }).finish();
}

/**
 * Receives, checks and stores a data set; nothing stays of a stream that does not arrive whole. The file is received again where the
 * `request_id` was answered before: only then it is known to be the same one.
 */
export async function uploadDataset(
  { datasets, requestLog, maxDatasetBytes }: UploadDependencies,
  requests: AsyncIterable<UploadDatasetRequest>,
  signal: AbortSignal,
): Promise<UploadDatasetResponse> {
  const iterator = requests[Symbol.asyncIterator]();
  const header: UploadDatasetHeader = await takeHeader(iterator);
  const { requestId, datasetId, ...file } = parseRequest(uploadHeaderSchema, header);
  const name = `datasets/${datasetId === '' ? `d-${randomUUID()}` : datasetId}`;
  // Before anything is sent in vain; under a request_id the name may be the answer's own.
  if (requestId === '' && datasets.has(name)) throw datasetExists(name);
  const options = { folder: datasets.folder, ...file, maxBytes: maxDatasetBytes, signal };
  return receiveUpload(takeChunks(iterator), options, (upload) => {
    const call = { requestId, method: 'UploadDataset', request: requestBytes(header, upload) };
    return answerOnce(requestLog, call, UploadDatasetResponse, async (remember) => {
      const { folder, ...facts } = upload;
      const response = (): UploadDatasetResponse => ({ dataset: datasetMessage(datasets.get(name)) });
      await datasets.add(folder, { name, ...facts }, (change) => remember(change, response));
      return response();
    });
  });
}
