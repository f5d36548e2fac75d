/** What text shows of itself when it stands between other text. */

/** Labels of this value are not learned. */
export const IGNORED = -100;

/** Characters that turn the direction of text around, and so what stands beside them. */
const DIRECTIONS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/**
 * Line ends as a sign and a line end, other control characters as signs, and those that change the direction of text by number: the picture keeps
 * its shape.
 */
export const visible = (text: string): string =>
  text
    .replaceAll('\n', '⏎\n')
    .replaceAll('\t', '→')
    .replace(/[^\P{Cc}\n]/gu, '·')
    .replace(DIRECTIONS, (character) => `‹U+${character.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}›`);
