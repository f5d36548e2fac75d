/** `--template`: a template's id, or a file with one. */
import { readFileSync } from 'node:fs';
import { CliError } from './failure.ts';

/** What `--template` takes, for its help. */
export const TEMPLATE_VALUE = '<id|file>';

/** What a request's `template` holds: the id, or the text of the file that a path names (`./mine`, `mine.yaml`). */
export function templateOf(value: string): string {
  if (!/[\\/]|\.(?:ya?ml|json)$/iu.test(value)) return value;
  try {
    return readFileSync(value, 'utf8');
  } catch (error) {
    throw new CliError(
      `--template ${value}: cannot be read (${error instanceof Error ? error.message : String(error)})`,
    );
  }
}
