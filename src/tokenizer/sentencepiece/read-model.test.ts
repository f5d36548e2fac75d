import { BinaryWriter } from '@bufbuild/protobuf/wire';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { sentencePieceFile } from '../../../test/fixtures/sentencepiece.ts';
import { TokenizerError } from '../errors.ts';
import { SentencePieceEncoder } from './encoder.ts';
import { readSentencePieceModel } from './read-model.ts';

interface Piece {
  readonly text: string;
  readonly score?: number;
  readonly type?: number;
}

interface Spec {
  readonly pieces?: readonly Piece[];
  readonly modelType?: number;
  readonly byteFallback?: boolean;
  readonly suffix?: boolean;
  readonly charsmap?: Uint8Array;
  readonly denormalizer?: Uint8Array;
}

const UNK: Piece = { text: '<unk>', type: 2 };

function file({ pieces = [UNK, { text: 'a' }], modelType = 2, byteFallback, suffix, charsmap, denormalizer }: Spec) {
  const writer = new BinaryWriter();
  for (const { text, score = -1, type = 1 } of pieces) {
    writer.uint32(10).fork().uint32(10).string(text).uint32(21).float(score).uint32(24).int32(type).join();
  }
  writer.uint32(18).fork().uint32(24).int32(modelType);
  writer
    .uint32(192)
    .bool(suffix === true)
    .uint32(280)
    .bool(byteFallback === true)
    .join();
  if (charsmap) writer.uint32(26).fork().uint32(18).bytes(charsmap).join();
  if (denormalizer) writer.uint32(42).fork().uint32(18).bytes(denormalizer).join();
  return writer.finish();
}

const read = (bytes: Uint8Array) => readSentencePieceModel(bytes, 'folder/tokenizer.model');

/** A charsmap of one block whose units are given by index, and its replacements. */
function charsmap(units: Readonly<Record<number, number>>, texts = 'x\0'): Uint8Array {
  const trie = new Uint32Array(256);
  for (const [index, unit] of Object.entries(units)) trie[Number(index)] = unit;
  return Buffer.concat([Buffer.from(Uint32Array.of(1024).buffer), Buffer.from(trie.buffer), Buffer.from(texts)]);
}

/** A unit with a label whose children's indices are XORed with `offset`. */
const unit = (label: number, offset: number, hasValue = false): number =>
  ((offset << 10) | (hasValue ? 0x100 : 0) | label) >>> 0;

/** The rule that makes `A` an `x`. */
const RULE = { 0: unit(0, 1), [1 ^ 0x41]: unit(0x41, 0x80, true), [1 ^ 0x41 ^ 0x80]: 0x80000000 };

it('reads a charsmap as Darts has it', () => {
  const pieces = [UNK, { text: 'x' }, { text: '▁' }, { text: 'B' }];
  const encoder = new SentencePieceEncoder(read(file({ pieces, charsmap: charsmap(RULE) })));
  const ids: number[] = [];
  encoder.encode('AxB', true, ids);
  expect(ids).toEqual([1, 1, 3]);
});

describe('refuses, naming the file,', () => {
  it.each<[string, Uint8Array, RegExp]>([
    ['an empty file', new Uint8Array(0), /no pieces/],
    ['text', Buffer.from('IQ== 0\nIg== 1\nIw== 2\n'), /not a sentencepiece model/],
    ['word models', file({ modelType: 3 }), /model type word is not supported; supported are unigram and bpe/],
    ['character models', file({ modelType: 4 }), /model type char is not supported/],
    ['model types to come', file({ modelType: 9 }), /model type 9 is not supported/],
    ['spaces behind words', file({ suffix: true }), /treat_whitespace_as_suffix is not supported/],
    ['denormalization', file({ denormalizer: charsmap(RULE) }), /denormalization rules are not supported/],
    ['a model without UNK', file({ pieces: [{ text: 'a' }] }), /none of 1 pieces is the unknown piece/],
    ['two UNKs', file({ pieces: [UNK, { text: 'u', type: 2 }] }), /pieces 0 and 1 are both the unknown piece/],
    ['a piece twice', file({ pieces: [UNK, { text: 'a' }, { text: 'a' }] }), /pieces 1 and 2 are both "a"/],
    ['an empty piece', file({ pieces: [UNK, { text: '' }] }), /piece 1 is empty/],
    ['a score that is no number', file({ pieces: [UNK, { text: 'a', score: Number.NaN }] }), /"a" has the score NaN/],
    ['an unknown type', file({ pieces: [UNK, { text: 'a', type: 7 }] }), /"a" has type 7; expected 1 to 6/],
    ['bytes without fallback', file({ pieces: [UNK, { text: '<0x41>', type: 6 }] }), /but byte_fallback is off/],
    ['fallback without bytes', file({ byteFallback: true }), /needs 256 byte pieces; found 0/],
    [
      'a broken byte',
      file({ pieces: [UNK, { text: '<41>', type: 6 }], byteFallback: true }),
      /byte piece 1 reads "<41>"/,
    ],
    ['a short charsmap', file({ charsmap: Uint8Array.of(1, 2) }), /precompiled_charsmap: a trie of 0 bytes in 2/],
    ['a charsmap cut short', file({ charsmap: charsmap(RULE).subarray(0, 700) }), /a trie of 1024 bytes in 700/],
    ['a charsmap without texts', file({ charsmap: charsmap(RULE, '') }), /a trie of 1024 bytes in 1028/],
    [
      'a trie in circles',
      file({ charsmap: charsmap({ 0: unit(0, 1), [1 ^ 0x41]: unit(0x41, 1 ^ 0x40) }) }),
      /the trie leads in circles at unit 64/,
    ],
    [
      'a trie out of bounds',
      file({ charsmap: charsmap({ 0: unit(0, 1), [1 ^ 0x41]: unit(0x41, 0x400, true) }) }),
      /the trie points to unit 1088 of 256/,
    ],
    [
      'a rule to nowhere',
      file({ charsmap: charsmap({ ...RULE, [1 ^ 0x41 ^ 0x80]: 0x80000009 }) }),
      /a rule points to byte 9 of 2 bytes of replacements/,
    ],
    ['a replacement without end', file({ charsmap: charsmap(RULE, 'xyz') }), /a rule points to byte 0 of 3 bytes/],
  ])('%s', (_, bytes, message) => {
    expect(() => read(bytes)).toThrow(message);
    expect(() => read(bytes)).toThrow(/^folder\/tokenizer\.model/);
  });

  it('whatever is cut or changed, or reads it', { timeout: 60_000 }, () => {
    const whole = Uint8Array.from(sentencePieceFile('bpe-rules'));
    const attempt = (bytes: Uint8Array): void => {
      try {
        const ids: number[] = [];
        new SentencePieceEncoder(read(bytes)).encode('AB ABA 你好😀ß', false, ids);
      } catch (error) {
        expect(error).toBeInstanceOf(TokenizerError);
      }
    };
    fc.assert(
      fc.property(fc.nat({ max: whole.length - 1 }), fc.nat({ max: 255 }), (at, byte) => {
        attempt(whole.subarray(0, at));
        const changed = Uint8Array.from(whole);
        changed[at] = byte;
        attempt(changed);
      }),
      { numRuns: 200 },
    );
  });
});
