import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import type { TokenExamples, TokenFile } from '../engine/engine.ts';
import { readExamples } from '../engine/fake-examples.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import { NO_HINTS } from './file-layout.ts';
import { type PreparationSpec, prepareExamples } from './prepare-examples.ts';
import { readText } from './read-examples.ts';
import { openTokenCache } from './token-cache.ts';

const silent = { warn: () => undefined, info: () => undefined };
const SPEC: PreparationSpec = {
  dataset: 'datasets/a',
  evalDataset: '',
  validationSplit: 0,
  model: 'models/tiny',
  template: 'tutorial',
  trainOn: 'assistant',
  maxSeqLength: 0,
  overLength: 'error',
};

const line = (prompt: string, completion = 'yes'): string => JSON.stringify({ prompt, completion });

/** Prepares from texts by name, and counts how often each was read. */
async function setUp(texts: Record<string, string>) {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-prepare-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const registry = createModelRegistry({
    engine: scriptedEngine(),
    models: { tiny: '/models/tiny.gguf' },
    roots: [],
    logger: silent,
  });
  const tokenCache = await openTokenCache({ folder, maxBytes: 2 ** 20, logger: silent });
  const reads = vi.fn();
  const openDataset = (name: string) => {
    const text = texts[name.slice('datasets/'.length)] ?? '';
    return {
      format: text.includes('input_ids') ? ('tokens' as const) : ('prompt_completion' as const),
      contentHash: createHash('sha256').update(text).digest('hex'),
      read: async function* () {
        reads();
        const piece = await readText(text, NO_HINTS);
        if (piece !== null) yield piece;
      },
    };
  };
  const prepare = async (more: Partial<PreparationSpec> = {}) => {
    const signal = new AbortController().signal;
    const prepared = await prepareExamples({ registry, openDataset, tokenCache }, { ...SPEC, ...more }, signal);
    onTestFinished(() => prepared.release());
    return prepared;
  };
  return { prepare, reads, texts, files: () => readdirSync(folder) };
}

/** Each example's ids as text. */
function texts({ inputIds, offsets }: TokenExamples): string[] {
  return Array.from({ length: offsets.length - 1 }, (_, i) => String(inputIds.subarray(offsets[i], offsets[i + 1])));
}
const read = async (file: TokenFile | null) => (file === null ? [] : texts(await readExamples(file)));

test('a whole data set, or two', async () => {
  const { prepare } = await setUp({ a: `${line('one')}\n${line('two')}\n`, b: line('three') });
  const whole = await prepare();
  expect(whole).toMatchObject({ evaluation: null, template: { id: 'tutorial' }, warnings: [], maxSeqLength: 128 });
  expect(await read(whole.train)).toHaveLength(2);
  const both = await prepare({ evalDataset: 'datasets/b' });
  expect(await read(both.train)).toEqual(await read(whole.train));
  expect(await read(both.evaluation)).toHaveLength(1);
});

test('an example is always on the same side: in any order, in a larger data set, under another template', async () => {
  const questions = Array.from({ length: 60 }, (_, index) => `question ${index}`);
  const sides = async (kept: readonly string[], more: Partial<PreparationSpec> = {}) => {
    const { prepare } = await setUp({ a: kept.map((question) => line(question)).join('\n') });
    const prepared = await prepare({ validationSplit: 0.3, ...more });
    return { train: await read(prepared.train), evaluation: await read(prepared.evaluation) };
  };
  const all = await sides(questions);
  expect(all.train.length + all.evaluation.length).toBe(60);
  // 18 are expected; eight standard deviations off would be another share.
  expect(all.evaluation.length).toBeGreaterThan(4);
  expect(all.evaluation.length).toBeLessThan(40);
  const reversed = await sides(questions.toReversed());
  expect(reversed.evaluation).toEqual(all.evaluation.toReversed());
  const fewer = await sides(questions.filter((_, index) => index % 3 > 0));
  for (const example of fewer.evaluation) expect(all.evaluation).toContain(example);
  for (const example of fewer.train) expect(all.train).toContain(example);
  const more = await sides(questions, { validationSplit: 0.6 });
  expect(more.evaluation).toEqual(expect.arrayContaining(all.evaluation));
  const other = await sides(questions, { template: 'concat-eos' });
  expect([other.train.length, other.evaluation.length]).toEqual([all.train.length, all.evaluation.length]);
});

test('duplicates are on one side', async () => {
  const lines = Array.from({ length: 40 }, (_, index) => line(`q ${index % 10}`));
  const { prepare } = await setUp({ a: lines.join('\n') });
  const { train, evaluation } = await prepare({ validationSplit: 0.5 });
  const held = new Set(await read(evaluation));
  for (const example of await read(train)) expect(held).not.toContain(example);
});

test('a share that leaves nothing on one side is refused by name, and says what to do', async () => {
  const { prepare } = await setUp({ a: line('alone') });
  for (const [validationSplit, expected] of [
    [0.000001, 'none to evaluate; expected a larger share'],
    [0.999999, 'none to train on; expected a smaller share'],
  ] as const) {
    await expect(prepare({ validationSplit })).rejects.toMatchObject({
      reason: 'INVALID_REQUEST',
      message: expect.stringContaining(expected),
      violations: [{ field: 'validation_split' }],
    });
  }
});

test('what does not change is rendered once; every change is seen', async () => {
  const source = await setUp({ a: `${line('one')}\n${line('two, which is longer')}\n`, b: line('one') });
  const { prepare, reads } = source;
  const first = await prepare();
  await prepare();
  await prepare({ validationSplit: 0.5 }).catch(() => null);
  expect(reads).toHaveBeenCalledTimes(1);
  await prepare({ evalDataset: 'datasets/b' });
  expect(reads).toHaveBeenCalledTimes(2);
  const changes: Partial<PreparationSpec>[] = [
    { maxSeqLength: 100 },
    { overLength: 'drop' },
    { trainOn: 'all' },
    { template: 'concat-eos' },
  ];
  for (const [index, change] of changes.entries()) {
    await prepare(change);
    expect(reads, JSON.stringify(change)).toHaveBeenCalledTimes(3 + index);
  }
  source.texts.a = `${source.texts.a}${line('three')}\n`;
  expect((await prepare()).train.path).not.toBe(first.train.path);
  expect(reads).toHaveBeenCalledTimes(7);
});

test('warnings of examples that are too long are told again with what was kept', async () => {
  const { prepare, reads } = await setUp({ a: `${line('x')}\n${line('a question that is far too long for this')}` });
  const settings = { maxSeqLength: 30, overLength: 'drop' } as const;
  const { warnings } = await prepare(settings);
  expect(warnings).toEqual([expect.stringContaining('datasets/a: 1 examples were left out')]);
  expect((await prepare(settings)).warnings).toEqual(warnings);
  expect(reads).toHaveBeenCalledTimes(1);
});

test('nothing is kept of data that is refused', async () => {
  const { prepare, files } = await setUp({
    a: '{"input_ids":[1,2],"labels":[1,2]}\n{"input_ids":[1,2],"labels":[1,-100]}\n',
    b: line('long '.repeat(20)),
  });
  await expect(prepare()).rejects.toMatchObject({
    reason: 'NO_TRAINABLE_TOKENS',
    message: expect.stringContaining('line[2]'),
    violations: [{ field: 'line[2]' }],
  });
  for (const overLength of ['error', 'drop'] as const) {
    const long = { dataset: 'datasets/b', maxSeqLength: 5, overLength };
    await expect(prepare(long)).rejects.toMatchObject({ reason: 'SEQUENCE_TOO_LONG' });
  }
  expect(files()).toEqual([]);
});

test('exact ids arrive as they were, whatever they are', async () => {
  const id = fc.integer({ min: 0, max: 279 });
  const token = fc.tuple(id, fc.oneof(id, fc.constant(-100)));
  const example = fc.array(token, { minLength: 1, maxLength: 8 }).map((tokens) => [...tokens, [7, 7] as const]);
  const check = async (examples: (readonly (readonly [number, number])[])[]): Promise<void> => {
    const lines = examples.map((tokens) => ({ input_ids: tokens.map(([id]) => id), labels: tokens.map(([, l]) => l) }));
    const { prepare } = await setUp({ a: lines.map((one) => JSON.stringify(one)).join('\n') });
    const prepared = await prepare();
    const found = await readExamples(prepared.train);
    expect([...found.inputIds]).toEqual(lines.flatMap(({ input_ids }) => input_ids));
    expect([...found.labels]).toEqual(lines.flatMap(({ labels }) => labels));
    expect(texts(found)).toEqual(lines.map(({ input_ids }) => String(input_ids)));
  };
  await fc.assert(fc.asyncProperty(fc.array(example, { minLength: 1, maxLength: 6 }), check), { numRuns: 20 });
});
