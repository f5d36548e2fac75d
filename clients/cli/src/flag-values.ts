/** The kinds of values that flags of `train` take, on the command line or in a file. */
import { CliError } from './failure.ts';

/** What a flag takes. */
export type Kind =
  | 'text'
  | 'number'
  | 'integer'
  | 'boolean'
  | 'list'
  | 'modules'
  | 'layers'
  | 'numbers'
  | 'settings'
  | 'labels';

/** What becomes of it. */
export interface Values {
  text: string;
  number: number;
  integer: number;
  boolean: boolean;
  list: string[];
  /** A text: a regular expression. */
  modules: string[] | string;
  layers: number[];
  /** By module name or regular expression. */
  numbers: Record<string, number>;
  /** By name; a text that reads as a number is one. */
  settings: Record<string, number | string>;
  /** Text by name. */
  labels: Record<string, string>;
}

function listOf(raw: unknown): string[] | null {
  const items = Array.isArray(raw) ? raw.map(String) : typeof raw === 'string' ? raw.split(',') : [];
  const trimmed = items.map((item) => item.trim());
  return trimmed.length > 0 && !trimmed.includes('') ? trimmed : null;
}

/** One number, or the numbers of a range; both ends belong to it. */
function layersOf(text: string): number[] | null {
  const [, first, last = first] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text) ?? [];
  if (first === undefined || Number(last) < Number(first)) return null;
  return Array.from({ length: Number(last) - Number(first) + 1 }, (_, index) => Number(first) + index);
}

/** `name=number,…`, or an object of a file. */
function numbersOf(raw: unknown): Record<string, number> | null {
  const isObject = typeof raw === 'object' && raw !== null && !Array.isArray(raw);
  const entries = isObject
    ? Object.entries(raw)
    : listOf(raw)?.map((item): [string, unknown] => {
        const at = item.lastIndexOf('=');
        const text = item.slice(at + 1);
        return [item.slice(0, Math.max(at, 0)), text === '' ? Number.NaN : Number(text)];
      });
  const isNumber = (entry: [string, unknown]): entry is [string, number] =>
    entry[0] !== '' && typeof entry[1] === 'number' && Number.isFinite(entry[1]);
  return entries?.every(isNumber) ? Object.fromEntries(entries) : null;
}

/** `name=value,…`, or an object of a file. */
function settingsOf(raw: unknown): Record<string, number | string> | null {
  const isObject = typeof raw === 'object' && raw !== null && !Array.isArray(raw);
  const entries = isObject
    ? Object.entries(raw)
    : listOf(raw)?.map((item): [string, unknown] => {
        const at = item.indexOf('=');
        const text = item.slice(at + 1);
        const value = Number.isFinite(Number(text)) ? Number(text) : text;
        return at > 0 && text !== '' ? [item.slice(0, at), value] : ['', null];
      });
  const isSetting = (entry: [string, unknown]): entry is [string, number | string] =>
    entry[0] !== '' && (typeof entry[1] === 'string' || Number.isFinite(entry[1]));
  return entries?.every(isSetting) ? Object.fromEntries(entries) : null;
}

/** A list of `name=value`, whose commas are the value's, or an object of a file. */
function labelsOf(raw: unknown): Record<string, string> | null {
  if (typeof raw !== 'object' || raw === null) return null;
  const entries = Array.isArray(raw)
    ? raw.map((item): [string, string] => {
        const [, name = '', value = ''] = /^([^=]+)=(.*)$/su.exec(String(item)) ?? [];
        return [name, value];
      })
    : Object.entries(raw).map(([name, value]): [string, string] => [
        ['string', 'number', 'boolean'].includes(typeof value) ? name : '',
        String(value),
      ]);
  return entries.every(([name]) => name !== '') ? Object.fromEntries(entries) : null;
}

/**
 * A flag's value, from the command line or a file.
 * @throws CliError with what was expected
 */
export function parseFlag(name: string, kind: Kind, raw: unknown): Values[Kind] {
  switch (kind) {
    case 'text':
      if (typeof raw === 'string' || typeof raw === 'number') return String(raw);
      break;
    case 'boolean':
      if (typeof raw === 'boolean') return raw;
      if (raw === 'true' || raw === 'false') return raw === 'true';
      break;
    case 'list': {
      const items = listOf(raw);
      if (items !== null) return items;
      break;
    }
    case 'modules': {
      // The commas of a regular expression are its own.
      if (typeof raw === 'string' && /[\\^$*+?()[\]{}|]/.test(raw)) return raw;
      const items = listOf(raw);
      if (items !== null) return items;
      break;
    }
    case 'layers': {
      const layers = listOf(typeof raw === 'number' ? String(raw) : raw)?.map(layersOf) ?? [null];
      if (layers.every((range) => range !== null)) return layers.flat();
      break;
    }
    case 'numbers': {
      const numbers = numbersOf(raw);
      if (numbers !== null) return numbers;
      break;
    }
    case 'settings': {
      const settings = settingsOf(raw);
      if (settings !== null) return settings;
      break;
    }
    case 'labels': {
      const labels = labelsOf(raw);
      if (labels !== null) return labels;
      break;
    }
    default: {
      const value = typeof raw === 'string' && raw.trim() !== '' ? Number(raw) : raw;
      // NaN and infinities go no further: they would travel, and mean nothing.
      if (typeof value === 'number' && Number.isFinite(value) && (kind === 'number' || Number.isInteger(value)))
        return value;
    }
  }
  const expected = {
    text: 'text',
    boolean: 'true or false',
    list: 'a,b,c',
    modules: 'a,b,c or a regular expression',
    layers: 'numbers and ranges such as 0,4-7',
    numbers: 'a=1,b=2',
    settings: 'name=value,…',
    labels: 'name=value',
    number: 'a number',
    integer: 'a whole number',
  };
  throw new CliError(`--${name}: expected ${expected[kind]}, found ${JSON.stringify(raw) ?? String(raw)}`);
}
