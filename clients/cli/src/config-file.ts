/** `--config FILE`: YAML or JSON (which is YAML) with the names of the flags. */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { CliError } from './failure.ts';

/** The file's entries by flag name; `learning_rate` and `learning-rate` are the same. Values are checked with the flags. */
export function readConfigFile(path: string): ReadonlyMap<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw new CliError(`--config ${path}: cannot be read (${error instanceof Error ? error.message : String(error)})`);
  }
  let parsed: unknown;
  try {
    parsed = parse(text);
  } catch (error) {
    throw new CliError(
      `--config ${path}: no valid YAML or JSON (${error instanceof Error ? error.message : String(error)})`,
    );
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new CliError(`--config ${path}: expected names and values, such as \`learning-rate: 1e-4\``);
  }
  const entries = Object.entries(parsed).map(([name, value]): [string, unknown] => [name.replaceAll('_', '-'), value]);
  return new Map(entries);
}
