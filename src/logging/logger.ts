import { type DestinationStream, destination, type Logger as PinoLogger, pino, stdTimeFunctions } from 'pino';
import { textLine } from './text-line.ts';

/** A structured logger; `child` adds fields to every line. */
export type Logger = PinoLogger;

export interface LoggerOptions {
  readonly level: string;
  readonly format: 'json' | 'text';
}

/** Lines on standard error: standard output belongs to what a command prints. Written at once, so that none is lost at the end. */
function standardError(format: LoggerOptions['format']): DestinationStream {
  const stream = destination({ dest: 2, sync: true });
  if (format === 'json') return stream;
  return { write: (line) => void stream.write(textLine(line)) };
}

/** @param output Where lines go; standard error by default. */
export function createLogger(options: LoggerOptions, output?: DestinationStream): Logger {
  const settings = {
    level: options.level,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  return pino(settings, output ?? standardError(options.format));
}
