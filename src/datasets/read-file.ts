/** A file on the disk to examples, without blocking the event loop: small plain files in this thread, all others in one of their own. */
import { open } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { fileSource } from './containers/read-records.ts';
import { problemRecord } from './containers/records.ts';
import { READER_HEAP_MEBIBYTES, READER_YOUNG_MEBIBYTES } from './limits.ts';
import { type FilePiece, type ReadOptions, readExamples } from './read-examples.ts';

/** Files up to this size that are neither compressed nor Parquet take a few milliseconds. */
const INLINE_BYTES = 128 * 1024;

/** Pieces that a reader may be ahead of what takes them. */
const PIECES_AHEAD = 2;

/** What the worker thread is told. */
export interface FileReading {
  readonly path: string;
  readonly options: ReadOptions;
}

/** What the worker thread sends. */
export type FileReply =
  | { readonly kind: 'piece'; readonly piece: FilePiece }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly error: unknown };

async function isSmallText(path: string): Promise<boolean> {
  const handle = await open(path);
  try {
    const { size } = await handle.stat();
    if (size > INLINE_BYTES) return false;
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 0);
    const head = buffer.subarray(0, bytesRead).toString('latin1');
    return !head.startsWith('\x1f\x8b') && head !== '\x28\xb5\x2f\xfd' && head !== 'PAR1';
  } finally {
    await handle.close();
  }
}

const isOutOfMemory = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === 'ERR_WORKER_OUT_OF_MEMORY';

/** The piece that ends a file whose examples take more memory than one may. */
function outOfMemory(last: FilePiece | null): FilePiece {
  const description = `expected a file that is read within ${READER_HEAP_MEBIBYTES} MiB, found examples that take more; split them, or write smaller row groups`;
  const record = problemRecord(null, description, 'TOO_MUCH_MEMORY');
  return {
    examples: [],
    problems: 'problem' in record ? [record.problem] : [],
    notices: [],
    bytesRead: last?.bytesRead ?? 0,
    layout: last?.layout ?? { format: null, container: 'jsonl', compression: 'none' },
  };
}

/** Reads in a worker thread, which ends with the loop: at once where it is left early. */
async function* readInWorker(
  reading: FileReading,
  signal: AbortSignal | undefined,
): AsyncGenerator<FilePiece, void, undefined> {
  const worker = new Worker(new URL('./read-worker.ts', import.meta.url), {
    workerData: reading,
    resourceLimits: { maxOldGenerationSizeMb: READER_HEAP_MEBIBYTES, maxYoungGenerationSizeMb: READER_YOUNG_MEBIBYTES },
  });
  const replies: FileReply[] = [];
  let wake = Promise.withResolvers<void>();
  const add = (reply: FileReply): void => {
    replies.push(reply);
    wake.resolve();
  };
  worker.on('message', add);
  worker.on('error', (error) => add({ kind: 'error', error }));
  worker.on('exit', (code) => add({ kind: 'error', error: new Error(`the reading thread ended with code ${code}`) }));
  const onAbort = (): void => {
    replies.unshift({ kind: 'error', error: signal?.reason });
    wake.resolve();
  };
  signal?.addEventListener('abort', onAbort, { once: true });
  let last: FilePiece | null = null;
  try {
    signal?.throwIfAborted();
    for (let ahead = 0; ahead < PIECES_AHEAD; ahead++) worker.postMessage(null);
    for (;;) {
      const reply = replies.shift();
      if (reply === undefined) {
        await wake.promise;
        wake = Promise.withResolvers<void>();
        continue;
      }
      if (reply.kind === 'end') return;
      if (reply.kind === 'error') {
        if (!isOutOfMemory(reply.error)) throw reply.error;
        yield outOfMemory(last);
        return;
      }
      last = reply.piece;
      yield reply.piece;
      worker.postMessage(null);
    }
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await worker.terminate();
  }
}

/**
 * Reads the whole file. Leaving the loop ends the reading, and so does the signal, at once.
 * @throws the signal's reason; what the file system throws
 */
export async function* readFile(
  path: string,
  options: ReadOptions,
  signal?: AbortSignal,
): AsyncGenerator<FilePiece, void, undefined> {
  signal?.throwIfAborted();
  if (await isSmallText(path)) yield* readExamples(fileSource(path), options);
  else yield* readInWorker({ path, options }, signal);
}
