/** Checkpoints over the real addon: runs that are cut, paused and gone on with, and what is refused. */
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type {
  BaseModel,
  Engine,
  SavedCheckpoint,
  TrainingConfig,
  TrainingEvent,
  TrainingRun,
} from '../../src/engine/engine.ts';
import { openNativeEngine } from '../../src/engine/native.ts';
import { config, golden, PROCESSOR } from './native-settings.ts';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-checkpoints-'));
let engine: Engine;
let model: BaseModel;

afterAll(async () => {
  model.close();
  await engine.close();
  rmSync(scratch, { recursive: true });
});

const settings: Partial<TrainingConfig> = {
  lora: { ...config.lora, loraDropout: 0.1 },
  gradientAccumulationSteps: 3,
  perDeviceTrainBatchSize: 2,
  numTrainEpochs: 2,
  evalSteps: 4,
  shuffle: true,
  loadBestModelAtEnd: true,
};
const metadata = { baseModelName: '', baseModelHash: '', templateId: '', templateHash: '', template: '' };

/** Examples of 3 to 11 tokens, the last two of which are labelled. */
const many = (count: number, changed = 0) => {
  const lengths = Array.from({ length: count }, (_, index) => 3 + ((index * 5) % 9));
  const offsets = [0];
  for (const length of lengths) offsets.push((offsets.at(-1) ?? 0) + length);
  const inputIds = Uint32Array.from({ length: offsets.at(-1) ?? 0 }, (_, at) => 40 + ((at * 7919) % 200));
  const labels = Int32Array.from(inputIds);
  for (const [index, end] of offsets.slice(1).entries()) labels.fill(-100, offsets[index], end - 2);
  labels[labels.length - 1] = (labels.at(-1) ?? 0) + changed;
  return { inputIds, labels, offsets: Uint32Array.from(offsets) };
};

/** Of a step or an evaluation, what does not depend on clocks and memory. */
const numbers = (all: readonly TrainingEvent[]) =>
  all.flatMap((event): unknown[] => {
    if (event.kind === 'evaluation') return [event.evaluation];
    if (event.kind !== 'step') return [];
    const { globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens } = event.step;
    return [{ globalStep, epoch, loss, gradNorm, learningRate, tokens, labelTokens }];
  });

const start = (resumeFrom: string | null = null, change: Partial<TrainingConfig> = {}, base = model) =>
  base.train({ ...config, ...settings, ...change }, many(22), many(5), resumeFrom);

/** Reads to the end; `each` is called with every event. */
async function read(run: TrainingRun, each: (event: TrainingEvent) => void | Promise<void> = () => {}) {
  const all: TrainingEvent[] = [];
  for await (const event of run.events()) {
    all.push(event);
    await each(event);
  }
  return all;
}

/** Its adapter's file. */
async function adapterOf(run: TrainingRun) {
  const folder = mkdtempSync(join(scratch, 'adapter-'));
  await run.saveAdapter(folder, metadata);
  run.close();
  return readFileSync(join(folder, 'adapter_model.safetensors'));
}

/** The run that nobody cuts. */
let whole: { readonly all: TrainingEvent[]; readonly adapter: Buffer };
/** A checkpoint of it after step 3, and its files. */
let saved: { readonly folder: string; readonly checkpoint: SavedCheckpoint };

beforeAll(async () => {
  engine = await openNativeEngine(PROCESSOR);
  model = await engine.loadModel(join(golden, 'tied/model'), 'stored');
  const run = await start();
  whole = { all: await read(run), adapter: await adapterOf(run) };
  const folder = mkdtempSync(join(scratch, 'checkpoint-'));
  const other = await start(null, { saveSteps: 3 });
  const checkpoints: SavedCheckpoint[] = [];
  const all = await read(other, async (event) => {
    if (event.kind !== 'checkpoint' || checkpoints.length > 0) return;
    checkpoints.push(await other.saveCheckpoint(folder));
  });
  const [checkpoint] = checkpoints;
  if (checkpoint === undefined) throw new Error('no checkpoint was taken');
  expect(numbers(all)).toEqual(numbers(whole.all));
  expect(all.flatMap((event) => (event.kind === 'checkpoint' ? [event.globalStep] : []))).toEqual([3, 6]);
  expect((await adapterOf(other)).equals(whole.adapter)).toBe(true);
  saved = { folder, checkpoint };
});

it('are written while the run goes on, with their hashes, and gone on from bit for bit', async () => {
  const { folder, checkpoint } = saved;
  expect([3, 6]).toContain(checkpoint.globalStep);
  expect(checkpoint.files.map(({ name }) => name)).toEqual(['state.safetensors', 'checkpoint.json']);
  for (const { name, bytes, sha256 } of checkpoint.files) {
    const contents = readFileSync(join(folder, name));
    expect([contents.length, createHash('sha256').update(contents).digest('hex')]).toEqual([bytes, sha256]);
  }
  const run = await start(folder, { saveSteps: null, recomputeLayers: 1 });
  const all = await read(run);
  const before = whole.all.findIndex(
    (event) => event.kind === 'step' && event.step.globalStep === checkpoint.globalStep,
  );
  // An evaluation comes after step 4 and after the last one only.
  expect(all[0]).toMatchObject({
    kind: 'started',
    resumed: { globalStep: checkpoint.globalStep, differences: [] },
    maxSteps: 8,
  });
  expect(numbers(all)).toEqual(numbers(whole.all.slice(before + 1)));
  expect((await adapterOf(run)).equals(whole.adapter)).toBe(true);
});

it('a run that is paused anywhere goes on as if it had not been, twice', async () => {
  // So long that it does not end before it is paused.
  const long = { numTrainEpochs: 30, evalSteps: 20 };
  const uncut = await start(null, long);
  const expected = { all: await read(uncut), adapter: await adapterOf(uncut) };
  let resumeFrom: string | null = null;
  const told: TrainingEvent[] = [];
  for (const pauseAfter of [2, 2]) {
    const run: TrainingRun = await start(resumeFrom, long);
    let seen = 0;
    const all = await read(run, (event) => {
      if (event.kind === 'step') seen += 1;
      if (seen === pauseAfter) run.pause();
    });
    const last = all.at(-1);
    if (last?.kind !== 'paused') throw new Error(`the run ended with ${last?.kind}`);
    const folder = mkdtempSync(join(scratch, 'paused-'));
    expect((await run.saveCheckpoint(folder)).globalStep).toBe(last.globalStep);
    expect((await adapterOf(run)).length).toBe(expected.adapter.length);
    told.push(...all);
    resumeFrom = folder;
  }
  const run = await start(resumeFrom, long);
  told.push(...(await read(run)));
  expect(numbers(told)).toEqual(numbers(expected.all));
  expect((await adapterOf(run)).equals(expected.adapter)).toBe(true);
}, 60_000);

it('one that is asked for is told of once; before that, there is none to save', async () => {
  const run = await start(null, { numTrainEpochs: 200 });
  const folder = mkdtempSync(join(scratch, 'none-'));
  await expect(run.saveCheckpoint(folder)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  run.requestCheckpoint();
  run.requestCheckpoint();
  const all = await read(run, async (event) => {
    if (event.kind !== 'checkpoint') return;
    const { globalStep } = await run.saveCheckpoint(folder);
    expect(globalStep).toBe(event.globalStep);
    run.cancel();
  });
  expect(all.filter(({ kind }) => kind === 'checkpoint')).toHaveLength(1);
  expect(all.at(-1)).toEqual({ kind: 'cancelled' });
  await expect(run.saveCheckpoint(join(scratch, 'nowhere'))).rejects.toMatchObject({ code: 'IO' });
  run.close();
  await expect(run.saveCheckpoint(folder)).rejects.toMatchObject({ code: 'CLOSED' });
});

it('a run that is told to stop evaluates and finishes with the best adapter', async () => {
  const run = await start(null, { numTrainEpochs: 200, evalSteps: 1000 });
  const all = await read(run, (event) => {
    if (event.kind === 'step') run.stopAfterStep();
  });
  expect(all.slice(-2).map(({ kind }) => kind)).toEqual(['evaluation', 'finished']);
  const steps = all.flatMap((event) => (event.kind === 'step' ? [event.step.globalStep] : []));
  expect(all.at(-2)).toMatchObject({ evaluation: { globalStep: steps.at(-1), best: true } });
  expect(steps.length).toBeLessThan(800);
  run.close();
});

it.each(['state.safetensors', 'checkpoint.json'])('%s that is missing, cut or changed is named', async (name) => {
  const folder = mkdtempSync(join(scratch, 'corrupt-'));
  cpSync(saved.folder, folder, { recursive: true });
  const path = join(folder, name);
  const bytes = readFileSync(path);
  const refused = () =>
    expect(start(folder)).rejects.toMatchObject({
      code: 'CHECKPOINT_CORRUPT',
      message: expect.stringContaining(name),
    });
  truncateSync(path, bytes.length - 1);
  await refused();
  const changed = Buffer.from(bytes);
  const middle = bytes.length >> 1;
  changed[middle] = (changed[middle] ?? 0) ^ 4;
  writeFileSync(path, changed);
  await refused();
  rmSync(path);
  await refused();
  writeFileSync(path, bytes);
  (await start(folder)).close();
});

it('of other settings, data or weights is refused, saying what was expected and found', async () => {
  const refused = (run: Promise<TrainingRun>, message: string) =>
    expect(run).rejects.toMatchObject({ code: 'CHECKPOINT_MISMATCH', message: expect.stringContaining(message) });
  const { folder } = saved;
  await refused(start(folder, { learningRate: 2e-2 }), 'learning_rate: the checkpoint was taken with 0.01; found 0.02');
  await refused(start(folder, { maxSteps: 100 }), 'max_steps: the checkpoint was taken with none; found 100');
  const longer = { ...config, ...settings };
  await refused(model.train(longer, many(22, 1), many(5), folder), 'training data: the checkpoint was taken with 22');
  await refused(model.train(longer, many(22), many(6), folder), 'evaluation data: the checkpoint was taken with 5');
  const other = await engine.loadModel(join(golden, 'tied/model'), 'int8');
  await refused(start(folder, {}, other), 'held as stored; found');
  other.close();
});

it('of another number of threads says so', async () => {
  const other = await openNativeEngine({ ...PROCESSOR, threads: 1 });
  const base = await other.loadModel(join(golden, 'tied/model'), 'stored');
  const run = await start(saved.folder, {}, base);
  const [started] = await read(run);
  expect(started).toMatchObject({
    resumed: { differences: ['threads: 2 when the checkpoint was taken, now 1'] },
  });
  run.close();
  base.close();
  await other.close();
});
