/** The process of `readFile`: is told what to read, then sends one piece for each message it gets. */
import { useCompileCache } from '../compile-cache.ts';
import type { FileReading, FileReply } from './read-file.ts';

let reading: FileReading | null = null;
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

async function serve({ path, options }: FileReading): Promise<void> {
  useCompileCache(process.env);
  // Loaded here: from the cache where it has them.
  const { fileSource } = await import('./containers/read-records.ts');
  const { readExamples } = await import('./read-examples.ts');
  try {
    for await (const piece of readExamples(fileSource(path), options)) {
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
process.on('message', (message: FileReading | null) => {
  if (reading === null && message !== null) {
    reading = message;
    void serve(message);
    return;
  }
  allowed += 1;
  wake.resolve();
});
// The server decides when it ends: an interrupt from a terminal reaches this process, too, while the server still drains.
process.on('SIGINT', () => undefined);
process.on('SIGTERM', () => undefined);
process.on('disconnect', () => process.exit());
