/** JSON text to a value, within bounds: what a parser makes of a text can be some fifty times its size. */
import { hasDuplicateKeys } from './duplicate-keys.ts';
import { MAX_DEPTH, MAX_MADE } from './limits.ts';

/** Why a text has no value. */
interface JsonFlaw {
  readonly description: string;
  readonly reason: 'NOT_JSON' | 'NESTED_TOO_DEEP' | 'TOO_MANY_VALUES' | 'DUPLICATE_KEY';
}

export type ParsedJson = { readonly value: unknown } | { readonly flaw: JsonFlaw };

const COLON = 0x3a;

/** Texts up to this length are parsed as they are: whatever they hold fits into memory. */
const SHORT = 64 * 1024;

/** Where the text ends that begins at `start`; -1: nowhere. */
function endOfText(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === 0x5c) backslashes += 1;
    if (backslashes % 2 === 0) return end;
  }
  return -1;
}

/** Counts lists, objects and keys before any is made: each costs its few bytes some fifty bytes of memory, and more where it is nested. */
function tooMuch(text: string): JsonFlaw | null {
  let depth = 0;
  let made = 0;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === 0x22) {
      index = endOfText(text, index);
      if (index < 0) return null;
    } else if (code === 0x5d || code === 0x7d) depth -= 1;
    else if (code === 0x5b || code === 0x7b || code === COLON) {
      if (code !== COLON) depth += 1;
      made += 1;
      if (depth > MAX_DEPTH) {
        const description = `expected at most ${MAX_DEPTH} lists and objects within each other, found more; flatten the example`;
        return { description, reason: 'NESTED_TOO_DEEP' };
      }
      if (made > MAX_MADE) {
        const description = `expected at most ${MAX_MADE} lists, objects and keys, found more; split the example`;
        return { description, reason: 'TOO_MANY_VALUES' };
      }
    }
  }
  return null;
}

/** Parses, and refuses keys that are there twice. */
export function parseJson(text: string): ParsedJson {
  const flaw = text.length > SHORT ? tooMuch(text) : null;
  if (flaw !== null) return { flaw };
  let value: unknown;
  const { stackTraceLimit } = Error;
  try {
    // A stack costs more than the parsing, and a file may have a million lines that are no JSON.
    Error.stackTraceLimit = 0;
    value = JSON.parse(text);
  } catch (error) {
    return { flaw: { description: (error as Error).message, reason: 'NOT_JSON' } };
  } finally {
    Error.stackTraceLimit = stackTraceLimit;
  }
  if (!hasDuplicateKeys(text, value)) return { value };
  const description = 'expected every key once in an object, found one twice; only the last would be read';
  return { flaw: { description, reason: 'DUPLICATE_KEY' } };
}
