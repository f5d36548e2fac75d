import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packagedAsGguf, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { DetokenizerStream } from './detokenizer-stream.ts';
import { ggufTokenizer } from './gguf.ts';

const tiny = tinyTokenizer();
const llama2 = ggufTokenizer(packagedAsGguf('llama2'));

/** Any ids in any chunks, valid text or not. */
const chunksOf = (vocabSize: number) =>
  fc.array(fc.array(fc.nat({ max: vocabSize + 5 }), { maxLength: 5 }), { maxLength: 12 });

describe.each([
  ['byte-level', tiny, 1],
  // Sentencepiece decodes every byte of an invalid sequence for itself.
  ['sentencepiece', llama2, 3],
] as const)('%s', (_, tokenizer, replacements) => {
  it('streams what decode gives, whatever the ids and chunks', () => {
    fc.assert(
      fc.property(
        chunksOf(tokenizer.vocabSize),
        fc.boolean(),
        fc.boolean(),
        (chunks, skipSpecialTokens, continuation) => {
          const options = { skipSpecialTokens, continuation };
          const stream = new DetokenizerStream(tokenizer, options);
          const text = chunks.map((chunk) => stream.push(chunk)).join('') + stream.flush();
          expect(text).toBe(tokenizer.decode(chunks.flat(), options));
        },
      ),
      { numRuns: 300 },
    );
  });

  it('never splits a character', () => {
    const text = 'a你好😀é👩‍💻z';
    const stream = new DetokenizerStream(tokenizer);
    const deltas = [...tokenizer.encode(text)].map((id) => stream.push([id]));
    expect(deltas.every((delta) => delta.isWellFormed() && !delta.includes('\ufffd'))).toBe(true);
    expect(deltas.join('')).toBe(text);
    expect(stream.flush()).toBe('');
  });

  it('gives an incomplete character at the end as U+FFFD', () => {
    const stream = new DetokenizerStream(tokenizer);
    const ids = [...tokenizer.encode('x🪿')].slice(0, -1);
    expect(ids.map((id) => stream.push([id])).join('')).toBe('x');
    expect(stream.flush()).toBe('\ufffd'.repeat(replacements));
  });
});
