import type { TokenizerDefinition } from './definition.ts';
import type { AddedTokenJson } from './tokenizer-json.ts';

/** `<|im_start|>` and the like: structure by convention, also where a file forgets to mark it. */
const STRUCTURAL = /^<\|.*\|>$|^<｜.*｜>$/su;

/**
 * The tokens that message text must never produce: those the files mark as special, those they name as BOS, EOS and so
 * on, and every added token of the form `<|…|>`. Other added tokens (runs of spaces, `<think>`) are ordinary.
 */
export function controlTokens(definition: TokenizerDefinition): AddedTokenJson[] {
  const named = new Set([
    definition.bosTokenId,
    definition.eosTokenId,
    definition.padTokenId,
    definition.unkTokenId,
    ...definition.endOfGenerationTokenIds,
    ...definition.prefixTokenIds,
    ...definition.suffixTokenIds,
  ]);
  const control = definition.json.added_tokens.filter(
    (token) => token.special || named.has(token.id) || STRUCTURAL.test(token.content),
  );
  // A file may name an id (an EOS, say) that it stores as an ordinary vocabulary entry.
  const known = new Set(control.map((token) => token.id));
  for (const [content, id] of Object.entries(definition.json.model.vocab)) {
    if (!named.has(id) || known.has(id)) continue;
    control.push({ id, content, special: true, single_word: false, lstrip: false, rstrip: false, normalized: false });
  }
  return control;
}
