/** A file on the disk to examples, without blocking the event loop: small plain files in this process, all others in one of their own. */
import { type ChildProcess, fork } from 'node:child_process';
import { open } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { fileSource } from './containers/read-records.ts';
import type { FileGrowth } from './file-growth.ts';
import { READER_HEAP_MEBIBYTES, READER_YOUNG_MEBIBYTES } from './limits.ts';
import { type FilePiece, type ReadOptions, readExamples } from './read-examples.ts';

/** Files up to this size that are neither compressed nor Parquet take a few milliseconds. */
const INLINE_BYTES = 128 * 1024;

/** Pieces that a reader may be ahead of what takes them. */
const PIECES_AHEAD = 2;

/** What the reading process is told first. */
export interface ReadingRequest {
  readonly kind: 'read';
  readonly path: string;
  readonly options: ReadOptions;
  /** The file is still written: messages say how much of it there is. */
  readonly growing: boolean;
}

/** What the reading process is told: what to read, to send one more piece, how much of the file is there. */
export type ReaderMessage =
  | ReadingRequest
  | { readonly kind: 'next' }
  | { readonly kind: 'grown'; readonly bytes: number; readonly ended: boolean };

/** What the reading process sends. */
export type FileReply =
  | { readonly kind: 'piece'; readonly piece: FilePiece }
  | { readonly kind: 'end' }
  | { readonly kind: 'error'; readonly message: string; readonly code: string | null };

/** What happened to a reading: what it sent, or how it ended. */
type ReadingEvent = FileReply | { readonly kind: 'crash' } | { readonly kind: 'failure'; readonly error: unknown };

/** Node's options for the reading process. */
export const READER_FLAGS: readonly string[] = [
  `--max-old-space-size=${READER_HEAP_MEBIBYTES}`,
  `--max-semi-space-size=${READER_YOUNG_MEBIBYTES}`,
];

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

/** The piece that ends a file which its reader did not survive. */
function lostReader(last: FilePiece | null): FilePiece {
  const description = `expected a file that is read within ${READER_HEAP_MEBIBYTES} MiB, found one whose examples take more, or that is damaged; split the examples, write smaller row groups, or copy it again`;
  return {
    examples: [],
    problems: [{ field: 'file', description, reason: 'TOO_MUCH_MEMORY' }],
    notices: [],
    bytesRead: last?.bytesRead ?? 0,
    layout: last?.layout ?? { format: null, container: 'jsonl', compression: 'none' },
  };
}

/** The events of a reading process, in order, as they are asked for. */
class ReadingEvents {
  readonly #events: ReadingEvent[] = [];
  #wake = Promise.withResolvers<void>();

  constructor(child: ChildProcess) {
    child.on('message', (reply: FileReply) => this.#add(reply));
    child.on('error', (error) => this.#add({ kind: 'failure', error }));
    // After its messages: `close` waits for the channel.
    child.on('close', () => this.#add({ kind: 'crash' }));
  }

  /** Before everything that waits. */
  interrupt(error: unknown): void {
    this.#events.unshift({ kind: 'failure', error });
    this.#wake.resolve();
  }

  async next(): Promise<ReadingEvent> {
    for (let event = this.#events.shift(); ; event = this.#events.shift()) {
      if (event !== undefined) return event;
      await this.#wake.promise;
      this.#wake = Promise.withResolvers<void>();
    }
  }

  #add(event: ReadingEvent): void {
    this.#events.push(event);
    this.#wake.resolve();
  }
}

/**
 * Reads in a process, which ends with the loop: at once where it is left early. A process and not a thread: a thread that runs out of memory
 * takes all others with it, and a damaged Parquet file can ask its decoder for any amount.
 */
async function* readInProcess(
  path: string,
  options: ReadOptions,
  signal: AbortSignal | undefined,
  growth: FileGrowth | undefined,
): AsyncGenerator<FilePiece, void, undefined> {
  const child = fork(fileURLToPath(new URL('./read-worker.ts', import.meta.url)), {
    execArgv: [...READER_FLAGS],
    serialization: 'advanced',
    // What a crash prints is no line of the server's log.
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  });
  const events = new ReadingEvents(child);
  const send = (message: ReaderMessage): void => {
    // A process that is gone has told so.
    if (child.connected) child.send(message, () => undefined);
  };
  const tellGrowth = ({ bytes, ended }: FileGrowth): void => send({ kind: 'grown', bytes, ended });
  const onAbort = (): void => events.interrupt(signal?.reason);
  signal?.addEventListener('abort', onAbort, { once: true });
  const unwatch = growth?.watch(() => tellGrowth(growth));
  let last: FilePiece | null = null;
  try {
    signal?.throwIfAborted();
    send({ kind: 'read', path, options, growing: growth !== undefined });
    if (growth !== undefined) tellGrowth(growth);
    for (let ahead = 0; ahead < PIECES_AHEAD; ahead++) send({ kind: 'next' });
    for (;;) {
      const event = await events.next();
      if (event.kind === 'end') return;
      if (event.kind === 'failure') throw event.error;
      if (event.kind === 'error') throw Object.assign(new Error(event.message), { code: event.code });
      if (event.kind === 'crash') {
        yield lostReader(last);
        return;
      }
      last = event.piece;
      yield event.piece;
      send({ kind: 'next' });
    }
  } finally {
    unwatch?.();
    signal?.removeEventListener('abort', onAbort);
    child.kill('SIGKILL');
  }
}

/**
 * Reads the whole file. Leaving the loop ends the reading, and so does the signal, at once.
 * @param growth Where the file is still written: reading begins before all of it is there.
 * @throws the signal's reason; what the file system throws
 */
export async function* readFile(
  path: string,
  options: ReadOptions,
  signal?: AbortSignal,
  growth?: FileGrowth,
): AsyncGenerator<FilePiece, void, undefined> {
  await growth?.beyond(INLINE_BYTES);
  signal?.throwIfAborted();
  if (await isSmallText(path)) yield* readExamples(fileSource(path), options);
  else yield* readInProcess(path, options, signal, growth);
}
