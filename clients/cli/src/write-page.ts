import { writeFileSync } from 'node:fs';
import { CliError } from './failure.ts';

/** Writes a page to the file that `--html` names. @throws CliError */
export function writePage(file: string, page: string): void {
  try {
    writeFileSync(file, page);
  } catch (error) {
    throw new CliError(`--html: ${file} cannot be written: ${(error as Error).message}`);
  }
}
