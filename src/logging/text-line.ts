/** One JSON log line for people: `12:00:01.234 info listening address=127.0.0.1:50051`. Error stacks follow on lines of their own. */
export function textLine(json: string): string {
  const { time, level, msg, err, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const shown = Object.entries(fields).map(
    ([key, value]) => `${key}=${typeof value === 'string' && !/\s/.test(value) ? value : JSON.stringify(value)}`,
  );
  const head = [String(time ?? '').slice(11, 23), level, msg, ...shown].filter((part) => part !== undefined).join(' ');
  const error = err as { readonly stack?: string; readonly message?: string } | undefined;
  return error === undefined ? `${head}\n` : `${head}\n${error.stack ?? error.message ?? ''}\n`;
}
