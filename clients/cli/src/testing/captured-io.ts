/** Standard streams that a test reads and writes. */
import { PassThrough, Readable } from 'node:stream';
import type { Io } from '../io.ts';

/** An Io, and what was written to it. */
export interface CapturedIo extends Io {
  readonly out: () => string;
  readonly err: () => string;
}

function captured(properties: object): [Io['stdout'], () => string] {
  const stream = new PassThrough();
  let text = '';
  stream.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  return [Object.assign(stream, properties), () => text];
}

/** No terminal unless `terminal` gives its width. */
export function capturedIo(options: { stdin?: string; env?: Io['env']; terminal?: number } = {}): CapturedIo {
  const terminal = options.terminal === undefined ? {} : { isTTY: true, columns: options.terminal };
  const [stdout, out] = captured(terminal);
  const [stderr, err] = captured(terminal);
  return { stdin: Readable.from([options.stdin ?? '']), stdout, stderr, env: options.env ?? {}, out, err };
}
