/** The terminal or pipe a command talks to. */
import { styleText } from 'node:util';

/** A terminal, a file or a pipe that is written to. */
export interface Output extends NodeJS.WritableStream {
  readonly isTTY?: boolean;
  /** Characters in a line of a terminal. */
  readonly columns?: number;
}

/** Where a command reads and writes. */
export interface Io {
  readonly stdin: NodeJS.ReadableStream & { readonly isTTY?: boolean };
  readonly stdout: Output;
  readonly stderr: Output;
  readonly env: Readonly<Record<string, string | undefined>>;
}

type Style = Parameters<typeof styleText>[0];

/** Text in a style, where the stream is a terminal that shows it (`NO_COLOR` and `FORCE_COLOR` are honoured). */
export function paint(stream: Output, style: Style, text: string): string {
  return styleText(style, text, { stream, validateStream: true });
}

/** Writes a line, as fast as the reader takes it. */
export function printLine(stream: Output, text = ''): Promise<void> {
  return print(stream, `${text}\n`);
}

/** Writes text, as fast as the reader takes it. */
export async function print(stream: Output, text: string): Promise<void> {
  if (stream.write(text)) return;
  await new Promise<void>((resolve) => stream.once('drain', resolve));
}
