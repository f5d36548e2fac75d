/** The worker thread of `readFile`: sends one piece for each message it gets. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { fileSource } from './containers/read-records.ts';
import { type FilePiece, readExamples } from './read-examples.ts';
import type { FileReading, FileReply } from './read-file.ts';

const { path, options } = workerData as FileReading;

/** Exact ids move to the receiver instead of being copied. */
const buffersOf = ({ examples }: FilePiece): ArrayBuffer[] =>
  examples.flatMap(({ content }) =>
    content.kind === 'tokens' ? [content.inputIds.buffer as ArrayBuffer, content.labels.buffer as ArrayBuffer] : [],
  );

async function serve(port: MessagePort): Promise<void> {
  let allowed = 0;
  let wake = Promise.withResolvers<void>();
  port.on('message', () => {
    allowed += 1;
    wake.resolve();
  });
  const send = (reply: FileReply, transfer: ArrayBuffer[] = []): void => port.postMessage(reply, transfer);
  try {
    for await (const piece of readExamples(fileSource(path), options)) {
      while (allowed === 0) {
        await wake.promise;
        wake = Promise.withResolvers<void>();
      }
      allowed -= 1;
      send({ kind: 'piece', piece }, buffersOf(piece));
    }
    send({ kind: 'end' });
  } catch (error) {
    send({ kind: 'error', error });
  }
}

if (parentPort === null) throw new Error('this script runs in a worker thread only');
void serve(parentPort);
