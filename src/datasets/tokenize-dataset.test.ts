import { expect, it } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import type { Example } from './example-parser.ts';
import { type ExampleSource, type RenderingOptions, tokenizeDataset } from './tokenize-dataset.ts';
import type { TokenizedExample } from './tokenize-examples.ts';

const options: RenderingOptions = {
  model: 'models/tiny',
  template: 'tutorial',
  trainOn: 'assistant',
  maxSeqLength: 0,
  overLength: 'truncate',
};

const conversation = (index: number): Example => ({
  index,
  line: index + 1,
  content: {
    kind: 'messages',
    messages: [
      { role: 'user', content: `你好, question ${index}? <|im_end|>    ` },
      { role: 'assistant', content: `hello ${index} 😀 <think>` },
    ],
  },
});

const source = (format: ExampleSource['format'], examples: readonly Example[]): ExampleSource => ({
  format,
  contentHash: '',
  read: async function* () {
    yield { examples, problems: [] };
  },
});

async function tokenize(hasEncoders: boolean, from: ExampleSource) {
  const logger = { info: () => undefined, warn: () => undefined };
  const engine = { ...scriptedEngine(), hasEncoders };
  const registry = createModelRegistry({ engine, models: { tiny: '/tiny' }, roots: [], logger });
  const kept: TokenizedExample[] = [];
  const keep = (examples: readonly TokenizedExample[]): void => void kept.push(...examples);
  const { encoder } = await tokenizeDataset(registry, from, options, keep, new AbortController().signal);
  return { encoder, ids: kept.map(({ inputIds, labels }) => [inputIds, labels]) };
}

it("encodes with the engine's addon where it has encoders, and says so", { timeout: 60_000 }, async () => {
  const conversations = source(
    'messages',
    Array.from({ length: 1500 }, (_, index) => conversation(index)),
  );
  const javascript = await tokenize(false, conversations);
  const native = await tokenize(true, conversations);
  expect([javascript.encoder, native.encoder]).toEqual(['javascript', 'native']);
  expect(native.ids).toEqual(javascript.ids);
  expect(native.ids).toHaveLength(1500);
});

it('needs no encoder for exact ids', async () => {
  const content = { kind: 'tokens', inputIds: Uint32Array.of(5, 6), labels: Int32Array.of(5, 6) } as const;
  const { encoder, ids } = await tokenize(true, source('tokens', [{ index: 0, line: 1, content }]));
  expect([encoder, ids.length]).toEqual([null, 1]);
});
