/** The first line of a CSV file: what tells it from other text, and what separates its columns. */

const DELIMITERS = [',', '\t', ';'] as const;

export type Delimiter = (typeof DELIMITERS)[number];

/** The names in a first line, if it is split at this character. */
const namesOf = (line: string, delimiter: Delimiter): string[] =>
  line.split(delimiter).map((name) => name.trim().replace(/^"(.*)"$/, '$1'));

/** The character that separates columns: the one that yields a known column name; null: none does. */
export function detectDelimiter(line: string, known: ReadonlySet<string>): Delimiter | null {
  return DELIMITERS.find((delimiter) => namesOf(line, delimiter).some((name) => known.has(name))) ?? null;
}
