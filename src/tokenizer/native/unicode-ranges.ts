/** Unicode's classes as this process knows them. The native encoders have no tables of their own: two versions of Unicode would cut otherwise. */

/** First and last code points of runs. */
export type Ranges = readonly (readonly [first: number, last: number])[];

const LAST = 0x10ffff;
const CHUNK = 0x4000;

const known = new Map<string, Ranges>();

/** The code points of a range, without surrogates. */
function textOf(first: number, end: number): string {
  const codes: number[] = [];
  for (let code = first; code < end; code++) if (code < 0xd800 || code > 0xdfff) codes.push(code);
  return String.fromCodePoint(...codes);
}

/**
 * The code points of `\p{name}`; surrogates are left out.
 * @throws SyntaxError for a name that regular expressions do not know
 */
export function unicodeRanges(name: string): Ranges {
  const before = known.get(name);
  if (before) return before;
  const pattern = new RegExp(`\\p{${name}}+`, 'gu');
  const ranges: [number, number][] = [];
  for (let first = 0; first <= LAST; first += CHUNK) {
    for (const [run] of textOf(first, first + CHUNK).matchAll(pattern)) {
      const start = run.codePointAt(0) ?? 0;
      const low = run.charCodeAt(run.length - 1);
      const end = low >= 0xdc00 && low <= 0xdfff ? (run.codePointAt(run.length - 2) ?? 0) : low;
      const last = ranges.at(-1);
      if (last && last[1] + 1 === start) last[1] = end;
      else ranges.push([start, end]);
    }
  }
  known.set(name, ranges);
  return ranges;
}

/** Every other code point. */
export function complement(ranges: Ranges): Ranges {
  const others: [number, number][] = [];
  let next = 0;
  for (const [first, last] of ranges) {
    if (first > next) others.push([next, first - 1]);
    next = last + 1;
  }
  if (next <= LAST) others.push([next, LAST]);
  return others;
}
