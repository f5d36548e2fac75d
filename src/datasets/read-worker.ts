/** The process of `readFile`: is told what to read, then sends a piece each time it is asked for one. */
import { useCompileCache } from '../compile-cache.ts';
import { FileGrowth } from './file-growth.ts';
import type { FileReply, ReaderMessage, ReadingRequest } from './read-file.ts';

let reading = false;
const growth = new FileGrowth();
let allowed = 0;
let wake = Promise.withResolvers<void>();

/** Until a piece may be sent. */
async function permission(): Promise<void> {
  while (allowed === 0) {
    await wake.promise;
    wake = Promise.withResolvers<void>();
  }
  allowed -= 1;
}

const send = (reply: FileReply): Promise<void> =>
  new Promise((resolve) => {
    process.send?.(reply, undefined, {}, () => resolve());
  });

async function serve({ path, options, growing }: ReadingRequest): Promise<void> {
  useCompileCache(process.env);
  // Loaded here: from the cache where it has them.
  const { fileSource, growingSource } = await import('./containers/read-records.ts');
  const { readExamples } = await import('./read-examples.ts');
  try {
    const source = growing ? growingSource(path, growth) : fileSource(path);
    for await (const piece of readExamples(source, options)) {
      await permission();
      await send({ kind: 'piece', piece });
    }
    await send({ kind: 'end' });
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    await send({ kind: 'error', message, code: code ?? null });
  }
}

if (process.send === undefined) throw new Error('this script runs as a process of readFile only');
process.on('message', (message: ReaderMessage) => {
  if (message.kind === 'grown') growth.set(message.bytes, message.ended);
  else if (message.kind === 'next') {
    allowed += 1;
    wake.resolve();
  } else if (!reading) {
    reading = true;
    void serve(message);
  }
});
// The server decides when it ends: an interrupt from a terminal reaches this process, too, while the server still drains.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);
process.on('disconnect', () => process.exit());
