import type { TokenizerConventions } from './definition.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

/** `<|im_start|>` and the like, `<reserved_106>`: structure by convention, also where a file forgets to mark it. */
const STRUCTURAL = /^<\|.*\|>$|^<｜.*｜>$|^<reserved_\d+>$/su;

/** Whether a token's text alone says that it is no text. */
export const isStructural = (content: string): boolean => STRUCTURAL.test(content);

/** A token that is found as it stands. */
export const plainToken = (id: number, content: string, special: boolean): AddedTokenJson => ({
  id,
  content,
  special,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

/**
 * The tokens that message text must never produce: those the files mark as special, those they name as BOS, EOS and so
 * on, and every added token of the form `<|…|>`. Other added tokens (runs of spaces, `<think>`) are ordinary.
 *
 * @param added tokens beside the vocabulary, or named again by the files
 * @param vocabulary every other token
 */
export function controlTokens(
  conventions: TokenizerConventions,
  added: readonly AddedTokenJson[],
  vocabulary: Iterable<readonly [content: string, id: number]>,
): AddedTokenJson[] {
  const named = new Set([
    conventions.bosTokenId,
    conventions.eosTokenId,
    conventions.padTokenId,
    conventions.unkTokenId,
    ...conventions.endOfGenerationTokenIds,
    ...conventions.prefixTokenIds,
    ...conventions.suffixTokenIds,
  ]);
  const control = added.filter((token) => token.special || named.has(token.id) || isStructural(token.content));
  // A file may name an id (an EOS, say) that it stores as an ordinary vocabulary entry.
  const known = new Set(control.map((token) => token.id));
  for (const [content, id] of vocabulary) {
    if (named.has(id) && !known.has(id)) control.push(plainToken(id, content, true));
  }
  return control;
}
