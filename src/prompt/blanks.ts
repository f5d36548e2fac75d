/**
 * Whitespace as Python's `str.strip` removes it, which published templates use. JavaScript's `trim` differs in U+FEFF, U+001C to U+001F and U+0085.
 * No regular expression: one that looks for whitespace at an end tries every run of it.
 */

const BLANKS: ReadonlySet<string> = new Set(
  '\t\n\v\f\r\u001c\u001d\u001e\u001f \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000',
);

/** The text without the characters of `blanks` at its end. */
export function stripEnd(text: string, blanks: ReadonlySet<string> = BLANKS): string {
  let end = text.length;
  while (end > 0 && blanks.has(text[end - 1] ?? '')) end -= 1;
  return text.slice(0, end);
}

/** The text without whitespace at its ends. */
export function strip(text: string): string {
  const kept = stripEnd(text);
  let start = 0;
  while (start < kept.length && BLANKS.has(kept[start] ?? '')) start += 1;
  return kept.slice(start);
}
