/**
 * Checks that the layouts share. Plain functions and no schema library: a data set has millions of values, and a list of a million wrong ones
 * must not become a million problems.
 */
import type { Message, Role } from '../../prompt/renderer.ts';
import type { Issues } from './issues.ts';

/** An object of a file. */
export type Fields = Readonly<Record<string, unknown>>;

export const isFields = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Where `key` stands within `parent`. */
export const placeOf = (parent: string, key: string): string => (parent === '' ? key : `${parent}.${key}`);

const UNKNOWN_AT_TOP =
  'expected only the fields of the format, found one more; leave the column out (ignored) or map it to a field (columns)';
const UNKNOWN_WITHIN = 'unknown field; remove it: it would not be learned from';

/** Fields that a layout does not have are refused: none is ignored in silence. */
export function checkKeys(object: Fields, place: string, known: ReadonlySet<string>, issues: Issues): void {
  for (const key of Object.keys(object)) {
    if (known.has(key)) continue;
    if (issues.full) return;
    issues.add(placeOf(place, key), place === '' ? UNKNOWN_AT_TOP : UNKNOWN_WITHIN, 'UNKNOWN_FIELD');
  }
}

/** A text that UTF-8 can hold: JSON's \u escapes can write halves of characters. Empty where there is none, which is told. */
export function textAt(value: unknown, place: string, issues: Issues): string {
  if (typeof value !== 'string') {
    issues.wrong(place, 'a text', value);
    return '';
  }
  if (!value.isWellFormed()) {
    issues.add(
      place,
      'expected whole characters, found half of a surrogate pair; repair the \\u escapes',
      'NOT_UNICODE',
    );
  }
  return value;
}

/** A field's text; `optional`: absent is empty. */
export function textField(object: Fields, key: string, issues: Issues, optional = false): string {
  const value = object[key];
  return optional && value === undefined ? '' : textAt(value, key, issues);
}

/** A list that must not be empty; null where it is none, which is told. */
export function listField(object: Fields, key: string, what: string, empty: string, issues: Issues): unknown[] | null {
  const value = object[key];
  if (!Array.isArray(value)) {
    issues.wrong(key, what, value);
    return null;
  }
  if (value.length === 0) issues.add(key, `expected ${what}, found an empty one; remove the example`, empty);
  return value;
}

/** 0 or 1 on an assistant's message; undefined where there is none. */
export function weightOf(message: Fields, role: Role | null, place: string, issues: Issues): 0 | 1 | undefined {
  const { weight } = message;
  if (weight === undefined) return undefined;
  const field = placeOf(place, 'weight');
  if (weight !== 0 && weight !== 1) issues.wrong(field, '0 or 1', weight);
  else if (role !== null && role !== 'assistant') {
    issues.add(field, `expected on assistant messages only, found on one of ${role}; remove it`, 'WEIGHT_NOT_ALLOWED');
  } else return weight;
  return undefined;
}

export const messageOf = (role: Role, content: string, weight?: 0 | 1): Message =>
  weight === undefined ? { role, content } : { role, content, weight };
