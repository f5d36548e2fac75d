/**
 * Hugging Face's `Precompiled` normalizer: sentencepiece's rules, applied otherwise than sentencepiece does. A character as people see it
 * (grapheme) of less than 6 bytes becomes what the shortest rule makes of its beginning, whole; of all others each code point is looked up.
 */
import type { Charsmap } from './sentencepiece/charsmap.ts';

const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' });

/** Texts in which every code point is a grapheme. */
const SIMPLE = /^[\u0020-\u007e\u00a1-\u00ac\u00ae-\u024f\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uff01-\uff60]*$/;

/** Above it a grapheme is looked up code point by code point. */
const MAX_GRAPHEME_BYTES = 5;

/** A normalizer over a model's rules. */
export function precompiledNormalizer(charsmap: Charsmap): (text: string) => string {
  const ofCharacters = (text: string): string => {
    let normalized = '';
    for (const character of text) normalized += charsmap.shortest(character) ?? character;
    return normalized;
  };
  return (text) => {
    if (SIMPLE.test(text)) return ofCharacters(text);
    let normalized = '';
    for (const { segment } of graphemes.segment(text)) {
      const whole = Buffer.byteLength(segment) <= MAX_GRAPHEME_BYTES ? charsmap.shortest(segment) : null;
      normalized += whole ?? ofCharacters(segment);
    }
    return normalized;
  };
}
