/** An upload on its way into the store: written and hashed as it arrives, and read meanwhile as a job would read it. */
import { createHash } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { LuthierError } from '../errors/luthier-error.ts';
import { untilAborted } from '../rpc/streams.ts';
import { makeWritingFolder } from '../store/durable-folders.ts';
import { dataFileName, type StoredDataset } from './dataset-store.ts';
import { FileGrowth } from './file-growth.ts';
import type { FileHints, FileLayout } from './file-layout.ts';
import { ProblemList, problemsError } from './problems.ts';
import { readFile } from './read-file.ts';

export interface UploadOptions extends FileHints {
  /** Where the file is written: see `DatasetStore.folder`. */
  readonly folder: string;
  /** Of the whole file, lower-case hex; null: not checked. */
  readonly sha256: string | null;
  readonly maxBytes: number;
  readonly signal: AbortSignal;
}

/** A file that arrived whole and is on the disk. */
interface ReceivedFile {
  readonly path: string;
  readonly sizeBytes: number;
  readonly sha256: string;
}

/** A file that arrived whole, was found sound and is on the disk, but not in the store yet. */
export interface ReceivedUpload extends Omit<StoredDataset, 'name' | 'createTime'> {
  readonly folder: string;
}

/** Name of a file whose layout is not known yet. */
const INCOMING_FILE = 'incoming';

const EMPTY = 'expected at least one example; found none';

/** What a file without examples is refused with. */
export const emptyDataset = (field: string) => ({ field, description: EMPTY, reason: 'EMPTY_DATASET' });

function checkHash(found: string, expected: string | null): void {
  if (expected === null || found === expected) return;
  throw new LuthierError(
    'CHECKSUM_MISMATCH',
    `the data set arrived damaged: expected SHA-256 ${expected}, found ${found}; send it again`,
    { metadata: { expected, found } },
  );
}

/**
 * Writes a file into a folder as it arrives.
 * @param growth Is told what can be read.
 * @throws LuthierError MESSAGE_TOO_LARGE; what `chunks` throws
 */
export async function receiveFile(
  folder: string,
  chunks: AsyncIterable<Uint8Array>,
  maxBytes: number,
  growth = new FileGrowth(),
): Promise<ReceivedFile> {
  const path = join(folder, INCOMING_FILE);
  const hash = createHash('sha256');
  const file = await open(path, 'wx');
  let sizeBytes = 0;
  try {
    for await (const chunk of chunks) {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) {
        throw new LuthierError(
          'MESSAGE_TOO_LARGE',
          `the data set is larger than this server takes: expected at most ${maxBytes} bytes; split it, or raise --max-dataset-bytes`,
          { metadata: { limit: String(maxBytes) } },
        );
      }
      hash.update(chunk);
      await file.writeFile(chunk);
      growth.set(sizeBytes, false);
    }
    growth.set(sizeBytes, true);
    await file.sync();
    return { path, sizeBytes, sha256: hash.digest('hex') };
  } finally {
    await file.close();
  }
}

/** What arrives, until the signal: the sender is not waited for. @throws the signal's reason; what `chunks` throws */
async function* chunksUntil(
  chunks: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array, void, undefined> {
  const iterator = chunks[Symbol.asyncIterator]();
  try {
    for (;;) {
      const next = await untilAborted(iterator.next(), signal);
      if (next.done) return;
      yield next.value;
    }
  } finally {
    iterator.return?.().then(undefined, () => undefined);
  }
}

/** Reads every example; malformed ones refuse the upload, with every problem up to the hundredth told. */
async function checkExamples(
  path: string,
  hints: FileHints,
  signal: AbortSignal,
  growth: FileGrowth,
): Promise<Omit<FileLayout, 'format'> & Pick<StoredDataset, 'format' | 'examples'>> {
  const problems = new ProblemList();
  let layout: FileLayout | null = null;
  let examples = 0;
  for await (const piece of readFile(path, { ...hints, inspect: false }, signal, growth)) {
    problems.add(...piece.problems);
    examples += piece.examples.length;
    layout = piece.layout;
    if (problems.full) break;
  }
  if (problems.count > 0) throw problemsError('the data set is refused and nothing is stored', problems);
  if (layout !== null && layout.format !== null && examples > 0) return { ...layout, format: layout.format, examples };
  throw new LuthierError('DATASET_INVALID', `the data set is empty: ${EMPTY}`, { violations: [emptyDataset('chunk')] });
}

/**
 * Receives a file and hands it to `use`, which may move its folder away. It is read as it arrives, so that one with a hundred problems, or that
 * cannot be read on, is refused before its end. Whatever is left of it afterwards is deleted: of an upload that was cut off, refused or not
 * taken, nothing stays.
 * @throws LuthierError DATASET_INVALID with violations by line, CHECKSUM_MISMATCH, MESSAGE_TOO_LARGE; what `chunks` and `use` throw
 */
export async function receiveUpload<Result>(
  chunks: AsyncIterable<Uint8Array>,
  options: UploadOptions,
  use: (upload: ReceivedUpload) => Promise<Result>,
): Promise<Result> {
  const folder = await makeWritingFolder(options.folder);
  const growth = new FileGrowth();
  const refused = new AbortController();
  const cutOff = new AbortController();
  const signal = AbortSignal.any([options.signal, cutOff.signal]);
  const checking = checkExamples(join(folder, INCOMING_FILE), options, signal, growth);
  checking.catch((error: unknown) => refused.abort(error));
  try {
    const arriving = chunksUntil(chunks, refused.signal);
    const { path, sizeBytes, sha256 } = await receiveFile(folder, arriving, options.maxBytes, growth);
    // First: what was damaged on its way may look malformed, too.
    checkHash(sha256, options.sha256);
    const checked = await checking;
    await rename(path, join(folder, dataFileName(checked)));
    return await use({ folder, ...checked, columns: options.columns, sizeBytes, sha256 });
  } finally {
    cutOff.abort();
    growth.set(growth.bytes, true);
    await checking.catch(() => undefined);
    await rm(folder, { recursive: true, force: true });
  }
}
