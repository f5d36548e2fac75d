/** The templates that have a name: the files of `presets/`. */
import { readFileSync } from 'node:fs';
import { parseTemplateFile, type TemplateFile } from './template-file.ts';
import { PRESET_NAMES } from './template-names.ts';

const read = new Map<string, TemplateFile>();

/** The text of a preset's file. */
export const presetText = (name: string): string =>
  readFileSync(new URL(`presets/${name}.yaml`, import.meta.url), 'utf8');

/** A preset, read once; null where none has the name. */
export function preset(name: string): TemplateFile | null {
  if (!PRESET_NAMES.includes(name)) return null;
  let known = read.get(name);
  if (!known) {
    known = parseTemplateFile(presetText(name));
    read.set(name, known);
  }
  return known;
}
