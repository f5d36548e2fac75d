/** Texts up to this length are parsed as they are: what they nest fits into memory. */
const SHORT = 64 * 1024;

/** Whether JSON text nests lists and objects deeper than `limit`. Each level costs a parser some hundred times its one byte. */
export function nestsDeeper(text: string, limit: number): boolean {
  if (text.length <= SHORT) return false;
  let depth = 0;
  for (let index = 0; index < text.length; index++) {
    const code = text.charCodeAt(index);
    if (code === 0x22) {
      index = endOfText(text, index);
      if (index < 0) return false;
    } else if (code === 0x5b || code === 0x7b) {
      depth += 1;
      if (depth > limit) return true;
    } else if (code === 0x5d || code === 0x7d) depth -= 1;
  }
  return false;
}

/** Where the text ends that begins at `start`; -1: nowhere. */
function endOfText(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); end >= 0; end = text.indexOf('"', end + 1)) {
    let backslashes = 0;
    while (text.charCodeAt(end - 1 - backslashes) === 0x5c) backslashes += 1;
    if (backslashes % 2 === 0) return end;
  }
  return -1;
}
