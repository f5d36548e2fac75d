import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { packagedAsGguf, tinyMetadata, tinyTokenizer } from '../../test/fixtures/tokenizers.ts';
import { ggufTokenizer } from './gguf.ts';
import { loadTokenizer } from './load.ts';
import { SUPPORTED_PRE_TOKENIZERS } from './pre-tokenizers.ts';

const tiny = tinyTokenizer();
const llama2 = ggufTokenizer(packagedAsGguf('llama2'));

/** Text made of control-token fragments, spaces, many scripts. */
const nasty = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '<|im_end|>',
        '<|im_start|>',
        '<|endoftext|>',
        '<|',
        '|>',
        'im_end',
        '<',
        '>',
        '<s>',
        '</s>',
        '<unk>',
        '    ',
      ),
      fc.string({ unit: 'grapheme', maxLength: 6 }),
      fc.string({ unit: 'binary', maxLength: 4 }),
      fc.constantFrom(' ', '\n', '\t', '\u00a0', '\u3000', '你好', '😀', '▁', 'hello'),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(''));

describe.each([
  ['byte-level', tiny],
  ['sentencepiece', llama2],
] as const)('%s', (_, tokenizer) => {
  it('never makes a control token of text', () => {
    fc.assert(
      fc.property(nasty, (text) => {
        expect([...tokenizer.encode(text)].filter((id) => tokenizer.controlTokenIds.has(id))).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  it('finds no control token across a literal mark', () => {
    const mark = '\ufdd5';
    for (const id of tokenizer.controlTokenIds) {
      const piece = tokenizer.idToPiece(id) ?? '';
      const ids = [
        ...tokenizer.encode(`a${piece.slice(0, 1)}${mark}${piece.slice(1)}b${piece}c`, {
          parseSpecial: true,
          literalMark: mark,
        }),
      ];
      expect(ids.filter((found) => tokenizer.controlTokenIds.has(found))).toEqual([id]);
      expect(tokenizer.decode(ids)).not.toContain(mark);
    }
  });

  it('decodes what it encoded', () => {
    fc.assert(
      fc.property(nasty, (text) => {
        // Sentencepiece writes spaces as ▁ and cannot tell the two apart again.
        const expected = tokenizer.textRules.leadingSpaces !== 'keep' ? text.replaceAll('▁', ' ') : text;
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(expected.toWellFormed());
      }),
      { numRuns: 300 },
    );
  });

  it('shows pieces that join to the text where no character is split', () => {
    const pieces = tokenizer.pieces(tokenizer.encode('hello hello, a < b'));
    expect(pieces.every((piece) => !piece.partial && !piece.control)).toBe(true);
    expect(
      pieces
        .map((piece) => piece.text)
        .join('')
        .trimStart(),
    ).toBe('hello hello, a < b');
  });
});

describe('special tokens', () => {
  it('are parsed on request only', () => {
    expect([...tiny.encode('<|im_end|>', { parseSpecial: true })]).toEqual([2]);
    expect(tiny.encode('<|im_end|>').length).toBeGreaterThan(1);
  });

  it('are left out on request', () => {
    const ids = tiny.encode('<|im_start|>hello<|im_end|>', { parseSpecial: true });
    expect(tiny.decode(ids)).toBe('<|im_start|>hello<|im_end|>');
    expect(tiny.decode(ids, { skipSpecialTokens: true })).toBe('hello');
  });

  it('leave ordinary added tokens alone', () => {
    const spaces = tiny.pieceToId('    ');
    const think = tiny.pieceToId('<think>');
    expect([...tiny.encode('a    b<think>')]).toEqual(expect.arrayContaining([spaces, think]));
    expect(tiny.controlTokenIds).toEqual(new Set([0, 1, 2]));
  });

  it('of the form <|…|> are control tokens even where the file calls them ordinary', () => {
    const metadata = tinyMetadata();
    const types = Int32Array.from(metadata.tokenTypes ?? []);
    types[1] = 4;
    const tokenizer = tinyTokenizer({ tokenTypes: types, bosTokenId: null });
    expect(tokenizer.controlTokenIds.has(1)).toBe(true);
  });

  it('surround a text as the file says', () => {
    expect([...llama2.encode('', { addSpecialTokens: true })]).toEqual([1]);
    expect([...tinyTokenizer({ addBosToken: true, addEosToken: true }).encode('', { addSpecialTokens: true })]).toEqual(
      [1, 2],
    );
    expect([...tiny.encode('', { addSpecialTokens: true })]).toEqual([]);
  });

  it('have names for templates', () => {
    expect(tiny.specialTokens).toEqual({
      bos_token: '<|im_start|>',
      eos_token: '<|im_end|>',
      unk_token: '<|endoftext|>',
      pad_token: '<|im_end|>',
    });
  });
});

describe('sentencepiece prefix', () => {
  it('stands in front of a text and behind a control token, not inside a text', () => {
    const pieces = (ids: Uint32Array) => [...ids].map((id) => llama2.idToPiece(id));
    expect(pieces(llama2.encode('the'))).toEqual(['▁the']);
    expect(pieces(llama2.encode('the', { after: 'control' }))).toEqual(['▁the']);
    expect(pieces(llama2.encode('the', { after: 'text' }))).toEqual(['the']);
  });

  it('is kept when the ids continue a text', () => {
    const ids = llama2.encode('hello');
    expect(llama2.decode(ids)).toBe('hello');
    expect(llama2.decode(ids, { continuation: true })).toBe(' hello');
  });
});

it('cuts sentencepiece text without changing ids and in time that grows with its length', () => {
  const text = 'The quick brown fox jumps over the lazy dog, again and again. '.repeat(4000);
  const start = performance.now();
  const ids = llama2.encode(text);
  // 250,000 characters: some 100 ms; as one word it takes seconds.
  expect(performance.now() - start).toBeLessThan(2500);
  expect(llama2.decode(ids)).toBe(text);
});

it('shows bytes that are no character on their own', () => {
  const pieces = tiny.pieces(tiny.encode('你é'));
  expect(pieces.map((piece) => piece.text)).toEqual(
    ['<0xE4><0xBD><0xA0>', 'é'].flatMap((text) => (text === 'é' ? ['<0xC3>', '<0xA9>'] : ['你'])),
  );
  expect(pieces.map((piece) => piece.partial)).toEqual([false, true, true]);
});

describe('errors', () => {
  it('name the supported pre-tokenizers', () => {
    expect(() => tinyTokenizer({ pre: 'mystery' })).toThrow(
      /`mystery` is not supported; supported are .*llama-bpe.*smollm/,
    );
    expect(SUPPORTED_PRE_TOKENIZERS).toContain('gpt-2');
  });

  it.each([
    [{ model: 'bert' }, /model `bert` is not supported; supported are gpt2 .* and llama/],
    [{ merges: null }, /needs `tokenizer.ggml.merges`/],
    [{ model: 'llama' }, /needs `tokenizer.ggml.scores`/],
    [{ tokens: [], tokenTypes: null }, /has no tokens/],
    [{ eosTokenId: 9999 }, /eos_token_id is 9999; the vocabulary has/],
    [{ tokenTypes: Int32Array.of(1) }, /`tokenizer.ggml.token_type` has 1 entries for/],
  ])('say what is wrong in %o', (overrides, message) => {
    expect(() => tinyTokenizer(overrides)).toThrow(message);
  });

  it('say what is missing or broken in a folder', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'luthier-tokenizer-'));
    const load = () => loadTokenizer({ kind: 'huggingface', folder });
    try {
      await expect(load()).rejects.toMatchObject({ code: 'TOKENIZER_NOT_FOUND' });
      await writeFile(join(folder, 'tokenizer.json'), '{ "model": ');
      await expect(load()).rejects.toMatchObject({ code: 'TOKENIZER_CORRUPT' });
      await writeFile(join(folder, 'tokenizer.json'), JSON.stringify({ model: { type: 'WordPiece', vocab: {} } }));
      await expect(load()).rejects.toThrow(/model type WordPiece is not supported; expected BPE or Unigram/);
      const split = { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithNext', invert: false };
      const model = { type: 'BPE', vocab: { a: 0 }, merges: [] };
      await writeFile(join(folder, 'tokenizer.json'), JSON.stringify({ model, pre_tokenizer: split }));
      await expect(load()).rejects.toThrow(/behavior MergedWithNext; Isolated, Removed/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
