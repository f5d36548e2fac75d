/** The texts of a template file: literal text with `{placeholders}`. */

/** A placeholder's name, or literal text. */
export type PatternPart = { readonly name: string } | { readonly text: string };

/**
 * Cuts a text at its placeholders; `{{` and `}}` become braces.
 *
 * @param names Placeholders that the text may hold.
 * @throws Error which says what is wrong with it, without saying where it stands
 */
export function parsePattern(pattern: string, names: readonly string[]): PatternPart[] {
  const parts: PatternPart[] = [];
  let text = '';
  const flush = (): void => {
    if (text !== '') parts.push({ text });
    text = '';
  };
  for (const [piece, placeholder] of pattern.matchAll(/\{\{|\}\}|\{([a-z]+)\}|[{}]|[^{}]+/gu)) {
    if (placeholder !== undefined) {
      if (!names.includes(placeholder)) {
        const known = names.map((name) => `{${name}}`).join(', ');
        throw new Error(`{${placeholder}} is no placeholder here; expected one of ${known}, or {{ and }} for braces`);
      }
      flush();
      parts.push({ name: placeholder });
    } else if (piece === '{' || piece === '}') {
      throw new Error(`found a single ${piece}; write ${piece}${piece} for a brace`);
    } else {
      text += piece === '{{' ? '{' : piece === '}}' ? '}' : piece;
    }
  }
  flush();
  return parts;
}

/** How often a placeholder occurs. */
export const countOf = (parts: readonly PatternPart[], name: string): number =>
  parts.filter((part) => 'name' in part && part.name === name).length;
