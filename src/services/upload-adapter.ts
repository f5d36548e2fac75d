/** UploadAdapter's stream: a header, then the files' bytes. */
import type { ManagedAdapterStore } from '../adapters/adapter-store-sqlite.ts';
import { receiveAdapterFiles } from '../adapters/adapter-transfer.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import {
  UploadAdapterHeader,
  type UploadAdapterRequest,
  UploadAdapterResponse,
} from '../gen/luthier/v1/adapter_service.ts';
import type { RequestLog } from '../store/request-log.ts';
import { takenMessage } from './adapter-message.ts';
import { answerOnce } from './answer-once.ts';
import { takeChunks, takeHeader } from './upload-parts.ts';
import { uploadHeaderSchema } from './validate/adapter.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface UploadAdapterDependencies {
  readonly adapters: ManagedAdapterStore;
  readonly requestLog: RequestLog;
  /** Of all files together. */
  readonly maxAdapterBytes: number;
}

/**
 * Receives, checks and stores an adapter; nothing stays of a stream that does not arrive whole. Where the `request_id` was answered before, the
 * answer is repeated without reading on: the header names the files by their hashes.
 */
export async function uploadAdapter(
  { adapters, requestLog, maxAdapterBytes }: UploadAdapterDependencies,
  requests: AsyncIterable<UploadAdapterRequest>,
): Promise<UploadAdapterResponse> {
  const iterator = requests[Symbol.asyncIterator]();
  const header: UploadAdapterHeader = await takeHeader(iterator);
  const { requestId, adapterId, files, ...spec } = parseRequest(uploadHeaderSchema, header);
  const sizeBytes = files.reduce((sum, file) => sum + file.sizeBytes, 0);
  if (sizeBytes > maxAdapterBytes) {
    throw new LuthierError(
      'MESSAGE_TOO_LARGE',
      `the adapter has ${sizeBytes} bytes; this server takes at most ${maxAdapterBytes}; raise --max-adapter-bytes`,
      { metadata: { limit: String(maxAdapterBytes) } },
    );
  }
  const call = { requestId, method: 'UploadAdapter', request: UploadAdapterHeader.encode(header).finish() };
  return answerOnce(requestLog, call, UploadAdapterResponse, async (remember) => {
    const source = 'the uploaded adapter';
    const taken = await adapters.take(
      { ...spec, id: adapterId, source },
      (folder) => receiveAdapterFiles(folder, files, takeChunks(iterator)),
      (change, known) => remember(change, () => takenMessage(known)),
    );
    return takenMessage(taken);
  });
}
