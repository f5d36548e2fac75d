/** ValidateDataset and CheckDataset: a report on a stored data set, or on a file that is only sent to be looked at. */
import { rm } from 'node:fs/promises';
import { type CheckOptions, type CheckReport, checkExamples } from '../datasets/checks/check-examples.ts';
import type { DatasetStore } from '../datasets/dataset-store.ts';
import type { FilePiece } from '../datasets/read-examples.ts';
import { readFile } from '../datasets/read-file.ts';
import { receiveFile } from '../datasets/receive-upload.ts';
import type {
  CheckDatasetRequest,
  CheckDatasetResponse,
  DatasetReport,
  ValidateDatasetRequest,
} from '../gen/luthier/v1/dataset_service.ts';
import type { Logger } from '../logging/logger.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { makeWritingFolder } from '../store/durable-folders.ts';
import { reportMessage } from './dataset-message.ts';
import { takeChunks, takeHeader } from './upload-parts.ts';
import { checkSchema, validateSchema } from './validate/dataset.ts';
import { parseRequest } from './validate/parse-request.ts';

export interface CheckDependencies {
  readonly registry: ModelRegistry;
  readonly datasets: DatasetStore;
  readonly maxDatasetBytes: number;
  readonly logger: Pick<Logger, 'info'>;
}

/** Between two messages of progress. */
const PROGRESS_MILLISECONDS = 200;

/** A data set to read: with notices. */
interface CheckedSource {
  readonly sizeBytes: number;
  readonly pieces: AsyncIterable<FilePiece>;
}

async function* check(
  { registry, logger }: Pick<CheckDependencies, 'registry' | 'logger'>,
  { sizeBytes, pieces }: CheckedSource,
  options: CheckOptions,
  signal: AbortSignal,
): AsyncGenerator<CheckDatasetResponse, CheckReport, undefined> {
  const progress = checkExamples(registry, pieces, options, signal);
  let last = Number.NEGATIVE_INFINITY;
  try {
    for (;;) {
      const next = await progress.next();
      if (next.done) {
        const { examples, encoder } = next.value;
        logger.info({ model: options.model, examples, encoder }, 'data checked');
        return next.value;
      }
      if (performance.now() - last < PROGRESS_MILLISECONDS) continue;
      last = performance.now();
      yield { event: { $case: 'progress', value: { ...next.value, totalBytes: sizeBytes } } };
    }
  } finally {
    // Waits for what is being read or rendered, which the signal ends.
    await progress.return(undefined as never);
  }
}

/** @throws LuthierError DATASET_NOT_FOUND, and what `checkExamples` throws */
export async function validateDataset(
  { datasets, ...dependencies }: CheckDependencies,
  request: ValidateDatasetRequest,
  signal: AbortSignal,
): Promise<DatasetReport> {
  const { dataset, ...options } = parseRequest(validateSchema, request);
  const { sizeBytes, read } = datasets.open(dataset);
  const running = check(dependencies, { sizeBytes, pieces: read(signal, true) }, options, signal);
  for (;;) {
    const next = await running.next();
    if (next.done) return reportMessage(next.value, sizeBytes);
  }
}

/** Progress, then the report. A file that is sent is deleted when the call ends, however it ends. */
export async function* checkDataset(
  { datasets, maxDatasetBytes, ...dependencies }: CheckDependencies,
  requests: AsyncIterable<CheckDatasetRequest>,
  signal: AbortSignal,
): AsyncGenerator<CheckDatasetResponse, void, undefined> {
  const iterator = requests[Symbol.asyncIterator]();
  const header = parseRequest(checkSchema, await takeHeader(iterator));
  const { dataset, ...options } = header.validation;
  // Before anything is sent in vain.
  await dependencies.registry.get(options.model);
  if (dataset !== '') {
    const { sizeBytes, read } = datasets.open(dataset);
    const report = yield* check(dependencies, { sizeBytes, pieces: read(signal, true) }, options, signal);
    yield { event: { $case: 'report', value: reportMessage(report, sizeBytes) } };
    return;
  }
  const folder = await makeWritingFolder(datasets.folder);
  try {
    const { path, sizeBytes } = await receiveFile(folder, takeChunks(iterator), maxDatasetBytes);
    const { format, container, columns } = header;
    const pieces = readFile(path, { format, container, columns, inspect: true }, signal);
    const report = yield* check(dependencies, { sizeBytes, pieces }, options, signal);
    yield { event: { $case: 'report', value: reportMessage(report, sizeBytes) } };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
