/** The terminal or pipe a command talks to. */
import { styleText } from 'node:util';

/** Where a command reads and writes. */
export interface Io {
  readonly stdin: NodeJS.ReadStream;
  readonly stdout: NodeJS.WriteStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: Readonly<Record<string, string | undefined>>;
}

type Style = Parameters<typeof styleText>[0];

/** Text in a style, where the stream is a terminal that shows it (`NO_COLOR` and `FORCE_COLOR` are honoured). */
export function paint(stream: NodeJS.WriteStream, style: Style, text: string): string {
  return styleText(style, text, { stream, validateStream: true });
}

/** Writes a line, as fast as the reader takes it. */
export function printLine(stream: NodeJS.WriteStream, text = ''): Promise<void> {
  return print(stream, `${text}\n`);
}

/** Writes text, as fast as the reader takes it. */
export async function print(stream: NodeJS.WriteStream, text: string): Promise<void> {
  if (stream.write(text)) return;
  await new Promise<void>((resolve) => stream.once('drain', resolve));
}
