/** Examples that the real addon maps from a file, beside the same ones as arrays. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { TokenFileWriter } from '../../src/datasets/token-file-writer.ts';
import type { BaseModel, Engine, ExampleData, TokenFile, TrainingConfig } from '../../src/engine/engine.ts';
import { readExamples } from '../../src/engine/fake-examples.ts';
import { openNativeEngine } from '../../src/engine/native.ts';
import { TrainingSpec } from '../../src/gen/luthier/v1/training_service.ts';
import { engineConfig } from '../../src/jobs/engine-config.ts';
import { estimateSchema, specMessage } from '../../src/services/validate/training.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-token-files-'));
const modelPath = fileURLToPath(new URL('../parity/golden/tied/model', import.meta.url));
const path = join(folder, 'examples.tokens');
let engine: Engine;
let model: BaseModel;

/** Examples of 4 to 19 tokens, of which the second half is learned. */
const EXAMPLES = Array.from({ length: 16 }, (_, line) => {
  const length = 4 + ((line * 7) % 16);
  const inputIds = Uint32Array.from({ length }, (_, position) => (line * 31 + position * 17) % 280);
  const labels = Int32Array.from(inputIds, (id, position) => (2 * position < length ? -100 : id));
  const content = { kind: 'tokens' as const, inputIds, labels };
  return { example: { index: line, line, content }, inputIds, labels, labelTokens: length >> 1 };
});

beforeAll(async () => {
  engine = await openNativeEngine({ device: 'cpu', threads: 1, computeType: 'bf16', embeddingInHostMemory: false });
  model = await engine.loadModel(modelPath, 'stored');
  const writer = await TokenFileWriter.create(path, '0'.repeat(64));
  await writer.add(EXAMPLES.slice(0, 5));
  await writer.add(EXAMPLES.slice(5));
  await writer.finish({});
});

afterAll(async () => {
  model.close();
  await engine.close();
  rmSync(folder, { recursive: true });
});

const file = (part: TokenFile['part'], heldOut = 0): TokenFile => ({ path, part, heldOut });

const config = (more: Partial<TrainingConfig> = {}): TrainingConfig => {
  const asked = TrainingSpec.create({ model: 'models/m', dataset: 'datasets/d', perDeviceTrainBatchSize: 2 });
  const { spec } = estimateSchema.parse({ spec: asked });
  return { ...engineConfig(specMessage(spec), null, 512), numTrainEpochs: 1, ...more };
};

async function train(data: ExampleData, evaluation: ExampleData | null, more: Partial<TrainingConfig> = {}) {
  const run = await model.train(config(more), data, evaluation);
  const seen: unknown[] = [];
  for await (const event of run.events()) {
    if (event.kind === 'step') seen.push([event.step.loss, event.step.gradNorm, event.step.tokens, event.step.epoch]);
    if (event.kind === 'evaluation') seen.push([event.evaluation.loss, event.evaluation.examples]);
  }
  run.close();
  return seen;
}

test.each([
  ['whole', file('all'), null],
  ['in two parts', file('train', 0.4), file('evaluation', 0.4)],
] as const)('a file trains as arrays do, to the bit: %s', async (_, data, evaluation) => {
  const arrays = await readExamples(data);
  const heldOut = evaluation && (await readExamples(evaluation));
  expect(arrays.offsets.length - 1 + (heldOut?.offsets.length ?? 1) - 1).toBe(EXAMPLES.length);
  const expected = await train(arrays, heldOut);
  expect(expected.length).toBeGreaterThan(3);
  expect(await train(data, evaluation)).toEqual(expected);
});

test('packed, and in groups by length: planned as run', async () => {
  const tokens = EXAMPLES.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
  const asked = { path: modelPath, storage: 'stored', loaded: true, contentHash: model.metadata.contentHash } as const;
  const packed = config({ packingLength: 48 });
  const estimate = await engine.estimateTraining(asked, packed, file('all'), null);
  const { packing } = estimate;
  expect(estimate).toMatchObject({ examples: 16, tokens, evalExamples: 0, runTokens: tokens });
  expect(estimate.labelTokens).toBe(EXAMPLES.reduce((sum, { labelTokens }) => sum + labelTokens, 0));
  expect(packing?.sequences).toBe(Math.ceil(tokens / 48));
  expect(packing?.utilization).toBeCloseTo(tokens / (48 * Math.ceil(tokens / 48)), 12);
  expect(estimate.maxSteps).toBe(Math.ceil((packing?.sequences ?? 0) / 2));
  expect(await train(file('all'), null, { packingLength: 48 })).toHaveLength(estimate.maxSteps);
  expect(await train(file('all'), null, { groupByLength: true })).toHaveLength(8);
  await expect(train(file('all'), null, { packingLength: 8 })).rejects.toMatchObject({ code: 'SEQUENCE_TOO_LONG' });
  await expect(train(file('all'), null, { groupByLength: true, shuffle: false })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

test('what is no token file, or holds ids of another model, is an error', async () => {
  const other = { path: join(folder, 'other.tokens'), part: 'all', heldOut: 0 } as const;
  await expect(train(other, null)).rejects.toMatchObject({
    code: 'IO',
    message: expect.stringContaining('other.tokens'),
  });
  writeFileSync(other.path, readFileSync(path).subarray(0, -1));
  await expect(train(other, null)).rejects.toMatchObject({ code: 'IO', message: expect.stringContaining('bytes') });
  const bytes = readFileSync(path);
  bytes.writeUInt32LE(1e9, 128);
  writeFileSync(other.path, bytes);
  await expect(train(other, null)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(train(file('evaluation'), null)).rejects.toMatchObject({ message: /no training examples/ });
});
