import { describe, expect, it } from 'vitest';
import { randomTexts } from '../../test/fixtures/random-texts.ts';
import { corpus, packagedAsGguf, packagedFolder, tinyMetadata } from '../../test/fixtures/tokenizers.ts';
import type { GgufTokenizerMetadata } from '../engine/engine.ts';
import { ggufTokenizer } from './gguf.ts';
import { loadTokenizer } from './load.ts';

it('gives Llama 2 the ids that its tokenizer.json gives', { timeout: 120_000 }, async () => {
  const json = await loadTokenizer({ kind: 'huggingface', folder: packagedFolder('llama2') });
  const gguf = ggufTokenizer(packagedAsGguf('llama2'));
  const wrong = [...corpus(), ...randomTexts(5000)].filter((text, index) => {
    const options = [{}, { parseSpecial: true }, { after: 'text' } as const][index % 3];
    return json.encode(text, options).join() !== gguf.encode(text, options).join();
  });
  expect(wrong.slice(0, 5).map((text) => JSON.stringify(text))).toEqual([]);
});

/** Pieces with their types; of two the one that stands first has the better score. */
function llama(pieces: readonly (readonly [piece: string, type: number])[]): GgufTokenizerMetadata {
  return tinyMetadata({
    model: 'llama',
    tokens: pieces.map(([piece]) => piece),
    tokenTypes: Int32Array.from(pieces, ([, type]) => type),
    scores: Float32Array.from(pieces, (_, id) => -id),
    bosTokenId: null,
    eosTokenId: null,
    paddingTokenId: null,
    unknownTokenId: 0,
    addSpacePrefix: false,
  });
}

const ids = (metadata: GgufTokenizerMetadata, text: string): number[] => [...ggufTokenizer(metadata).encode(text)];

describe('a file of the model llama', () => {
  it('has pieces that text does not become: padding, and texts that stand twice or are empty', () => {
    const metadata = llama([
      ['<unk>', 2],
      ['a', 1],
      ['b', 1],
      ['ab', 5],
      ['ba', 1],
      ['a', 1],
      ['', 1],
    ]);
    expect(ids(metadata, 'ab')).toEqual([1, 2]);
    expect(ids(metadata, 'ba')).toEqual([4]);
    const tokenizer = ggufTokenizer(metadata);
    expect([...tokenizer.controlTokenIds]).toEqual([0]);
    expect([...tokenizer.encode('ab', { parseSpecial: true })]).toEqual([1, 2]);
  });

  it('finds user-defined pieces before it merges', () => {
    const metadata = llama([
      ['<unk>', 2],
      ['a', 1],
      ['b', 1],
      ['ab', 1],
      ['ba', 4],
    ]);
    expect(ids(metadata, 'aba')).toEqual([1, 4]);
    expect(ids(metadata, 'ab')).toEqual([3]);
  });

  it('has UNK for what no piece writes, where it has no bytes', () => {
    expect(
      ids(
        llama([
          ['<unk>', 2],
          ['a', 1],
        ]),
        'axya',
      ),
    ).toEqual([1, 0, 1]);
  });

  it('must have all bytes or none', () => {
    expect(() =>
      ggufTokenizer(
        llama([
          ['<unk>', 2],
          ['<0x0A>', 6],
        ]),
      ),
    ).toThrow(/needs all 256 byte tokens.* or none; found 1/);
    expect(() =>
      ggufTokenizer(
        llama([
          ['<unk>', 2],
          ['<0x0>', 6],
        ]),
      ),
    ).toThrow(/needs all 256 byte tokens/);
  });
});
