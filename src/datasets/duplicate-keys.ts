/** Keys that an object has twice: JSON.parse keeps the last of them without a word. */

/** Whether the quote at `index` is written \" and so stands within a text. */
function isEscaped(text: string, index: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(index - 1 - backslashes) === 0x5c) backslashes += 1;
  return backslashes % 2 === 1;
}

/** Keys in JSON text: a quote before a colon ends one, unless it is escaped. */
function keysWritten(text: string): number {
  let count = 0;
  for (const match of text.matchAll(/"[ \t\r\n]*:/g)) if (!isEscaped(text, match.index)) count += 1;
  return count;
}

/** Keys of all objects in a value. Iterative: values come from strangers. */
function keysHeld(value: unknown): number {
  const open: unknown[] = [value];
  let count = 0;
  while (open.length > 0) {
    const next = open.pop();
    if (typeof next !== 'object' || next === null) continue;
    if (Array.isArray(next)) {
      for (const item of next) if (typeof item === 'object') open.push(item);
      continue;
    }
    for (const member of Object.values(next)) {
      count += 1;
      if (typeof member === 'object') open.push(member);
    }
  }
  return count;
}

/** Whether an object in `text` has a key twice. @param value What JSON.parse made of it. */
export function hasDuplicateKeys(text: string, value: unknown): boolean {
  return keysWritten(text) > keysHeld(value);
}
