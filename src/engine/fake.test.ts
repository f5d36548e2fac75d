import { mkdtempSync, rmSync, truncateSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { ALL_LINEAR } from '../../test/fixtures/all-linear.ts';
import { ggufTokenizer } from '../tokenizer/gguf.ts';
import type { SamplingConfig, TokenExamples, TrainingConfig, TrainingEvent, TrainingRun } from './engine.ts';
import { EngineError } from './errors.ts';
import { createFakeEngine, type FakeEngineOptions } from './fake.ts';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-fake-'));
afterAll(() => rmSync(scratch, { recursive: true }));

const config: TrainingConfig = {
  lora: { r: 2, loraAlpha: 4, loraDropout: 0, useRslora: false, seed: 0, ...ALL_LINEAR },
  initAdapterPath: null,
  initAdapterAnyBase: false,
  optim: 'adamw_torch',
  learningRate: 1e-3,
  loraplusLrRatio: 1,
  lrSchedulerType: 'linear',
  lrSchedulerKwargs: {},
  warmupSteps: 0,
  weightDecay: 0,
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  maxGradNorm: 1,
  labelSmoothingFactor: 0,
  neftuneNoiseAlpha: 0,
  lossNormalization: 'tokens',
  perDeviceTrainBatchSize: 1,
  gradientAccumulationSteps: 2,
  numTrainEpochs: 2,
  maxSteps: null,
  perDeviceEvalBatchSize: 1,
  evalSteps: null,
  metricForBestModel: 'eval_loss',
  loadBestModelAtEnd: false,
  earlyStoppingPatience: null,
  earlyStoppingThreshold: 0,
  maxNonFiniteSteps: 0,
  saveSteps: null,
  shuffle: false,
  dataSeed: 0,
  groupByLength: false,
  packingLength: null,
  recomputeLayers: 'auto',
  offloadActivations: false,
};

/** Three examples of four tokens with two, three and one label. */
const examples: TokenExamples = {
  inputIds: Uint32Array.from([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
  labels: Int32Array.from([-100, -100, 3, 4, -100, 6, 7, 8, 9, -100, -100, 12]),
  offsets: Uint32Array.from([0, 4, 8, 12]),
};

const sampling: SamplingConfig = {
  maxNewTokens: 5,
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
  eosTokenIds: [2],
};

const metadata = {
  baseModelName: 'fake',
  baseModelHash: 'f'.repeat(64),
  templateId: 't',
  templateHash: 'h',
  template: '',
};

async function start(options: FakeEngineOptions = {}, settings: Partial<TrainingConfig> = {}): Promise<TrainingRun> {
  const model = await createFakeEngine(options).loadModel('/m', 'stored');
  return model.train({ ...config, ...settings }, examples, examples);
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

describe('models', () => {
  it('are the ones that were given, with a tokenizer that works', async () => {
    const engine = createFakeEngine({ models: { '/a': { name: 'a' } } });
    const { name, tokenizer } = await engine.readMetadata('/a');
    expect(name).toBe('a');
    if (tokenizer.kind !== 'gguf') throw new Error('expected GGUF metadata');
    const text = ggufTokenizer(tokenizer.metadata);
    expect(Array.from(text.encode('hé'))).toEqual(Array.from(Buffer.from('hé'), (byte) => byte + 3));
    await expect(engine.loadModel('/b', 'stored')).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
  });

  it('are not there any more once closed', async () => {
    const engine = createFakeEngine();
    const model = await engine.loadModel('/m', 'stored');
    model.close();
    expect(() => model.generate(Uint32Array.of(1), sampling, null)).toThrow(
      expect.objectContaining({ code: 'CLOSED' }),
    );
    await engine.close();
    await expect(engine.loadModel('/m', 'stored')).rejects.toMatchObject({ code: 'CLOSED' });
  });
});

describe('training', () => {
  it('tells what a run tells, in order', async () => {
    const events = await all((await start()).events());
    expect(events.map(({ kind }) => kind)).toEqual([
      'started',
      'evaluation',
      ...['step', 'step', 'evaluation', 'step', 'step', 'evaluation'],
      'finished',
    ]);
    const steps = events.flatMap((event) => (event.kind === 'step' ? [event.step] : []));
    expect(steps.map(({ tokens, labelTokens, epoch }) => [tokens, labelTokens, epoch])).toEqual([
      [8, 5, 0.5],
      [4, 1, 1],
      [8, 5, 1.5],
      [4, 1, 2],
    ]);
    expect(await all((await start()).events())).toEqual(events);
  });

  it('waits where a test wants it to, and is cancelled there', async () => {
    const run = await start({ beforeStep: (step) => (step === 2 ? new Promise(() => undefined) : undefined) });
    const kinds: TrainingEvent['kind'][] = [];
    for await (const { kind } of run.events()) if (kinds.push(kind) === 3) run.cancel();
    expect(kinds).toEqual(['started', 'evaluation', 'step', 'cancelled']);
    run.cancel();
    expect((await run.saveAdapter(mkdtempSync(join(scratch, 'a-')), metadata)).bytes).toBeGreaterThan(0);
  });

  it('fails where a test wants it to, after every event before', async () => {
    const failure = new EngineError('NON_FINITE_LOSS', 'step 2: the loss is NaN');
    const run = await start({ beforeStep: (step) => (step === 2 ? Promise.reject(failure) : undefined) });
    const kinds: TrainingEvent['kind'][] = [];
    const reading = (async () => {
      for await (const { kind } of run.events()) kinds.push(kind);
    })();
    await expect(reading).rejects.toBe(failure);
    expect(kinds).toEqual(['started', 'evaluation', 'step']);
  });

  it('goes on without a reader', async () => {
    const done = Promise.withResolvers<void>();
    const run = await start({ beforeStep: (step) => (step === 4 ? done.resolve() : undefined) });
    await done.promise;
    expect((await all(run.events())).at(-1)).toEqual({ kind: 'finished' });
  });

  it.each([
    [{ learningRate: Number.NaN }, 'INVALID_ARGUMENT'],
    [{ lora: { ...config.lora, targetModules: ['qq_proj'] } }, 'UNKNOWN_TARGET_MODULE'],
    [{ initAdapterPath: '/none' }, 'ADAPTER_NOT_FOUND'],
  ])('refuses %j', async (settings, code) => {
    await expect(start({}, settings)).rejects.toMatchObject({ name: 'EngineError', code });
  });

  it('refuses examples that cannot be trained on', async () => {
    const model = await createFakeEngine({ models: { '/m': { maxPositionEmbeddings: 3 } } }).loadModel('/m', 'stored');
    await expect(model.train(config, examples, null)).rejects.toMatchObject({ code: 'SEQUENCE_TOO_LONG' });
    const other = await createFakeEngine().loadModel('/m', 'stored');
    const masked = { ...examples, labels: examples.labels.map(() => -100) };
    await expect(other.train(config, masked, null)).rejects.toMatchObject({ code: 'NO_TRAINABLE_TOKENS' });
    const none = { inputIds: new Uint32Array(), labels: new Int32Array(), offsets: Uint32Array.of(0) };
    await expect(other.train(config, none, null)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('ends with its engine, and when it is closed', async () => {
    const engine = createFakeEngine({ beforeStep: () => new Promise(() => undefined) });
    const model = await engine.loadModel('/m', 'stored');
    const [first, second] = [await model.train(config, examples, null), await model.train(config, examples, null)];
    second.close();
    await expect(all(second.events())).rejects.toMatchObject({ code: 'CLOSED' });
    await expect(second.saveAdapter(scratch, metadata)).rejects.toMatchObject({ code: 'CLOSED' });
    await expect(first.saveAdapter(scratch, metadata)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await engine.close();
    await expect(all(first.events())).rejects.toMatchObject({ code: 'CLOSED' });
  });
});

describe('adapters', () => {
  it('are read back as they were written, and belong to one base', async () => {
    const engine = createFakeEngine({
      models: { '/m': {}, '/other': { contentHash: '0'.repeat(64) }, '/wide': { hiddenSize: 16 } },
    });
    const model = await engine.loadModel('/m', 'stored');
    const run = await model.train(
      { ...config, lora: { ...config.lora, targetModules: ['q_proj', 'down_proj'] } },
      examples,
      null,
    );
    await all(run.events());
    const folder = mkdtempSync(join(scratch, 'adapter-'));
    const { sha256 } = await run.saveAdapter(folder, metadata);
    const expected = { r: 2, loraAlpha: 4, targetModules: ['down_proj', 'q_proj'], sha256, metadata };
    expect(await engine.readAdapter(folder)).toMatchObject(expected);
    const handle = await model.loadAdapter(folder, false);
    expect(handle.info.parameterCount).toBe(2 * 2 * (8 + 8 + 16 + 8));
    handle.close();
    await expect(model.score(Uint32Array.of(1), 0, handle)).rejects.toMatchObject({ code: 'CLOSED' });
    for (const path of ['/other', '/wide']) {
      const base = await engine.loadModel(path, 'stored');
      await expect(base.loadAdapter(folder, false)).rejects.toMatchObject({ code: 'ADAPTER_MISMATCH' });
    }
    truncateSync(join(folder, 'adapter_model.safetensors'), 600);
    await expect(engine.readAdapter(folder)).rejects.toMatchObject({ code: 'ADAPTER_CORRUPT' });
    await expect(engine.readAdapter(scratch)).rejects.toMatchObject({ code: 'ADAPTER_NOT_FOUND' });
  });
});

describe('generation', () => {
  it('echoes, and draws what it is told up to an end', async () => {
    const echo = await createFakeEngine().loadModel('/m', 'stored');
    const batches = await all(echo.generate(Uint32Array.of(7, 8), sampling, null).tokens());
    expect(batches.flatMap(({ tokenIds }) => [...tokenIds])).toEqual([7, 8, 7, 8, 7]);
    expect(batches.at(-1)).toMatchObject({ finishReason: 'length', eosTokenId: null });
    const told = await createFakeEngine({ generate: () => [9, 2] }).loadModel('/m', 'stored');
    const ended = await all(told.generate(Uint32Array.of(7), sampling, null).tokens());
    expect(ended.map(({ tokenIds, finishReason, eosTokenId }) => [[...tokenIds], finishReason, eosTokenId])).toEqual([
      [[9], null, null],
      [[], 'eos', 2],
    ]);
  });

  it('stops when it is cancelled, and when its reader leaves', async () => {
    let drawn = 0;
    const counting = (index: number): void => {
      drawn = index;
    };
    const model = await createFakeEngine({ beforeToken: counting }).loadModel('/m', 'stored');
    const run = model.generate(Uint32Array.of(7), { ...sampling, maxNewTokens: 400 }, null);
    let last: string | null = null;
    for await (const { finishReason } of run.tokens()) {
      run.cancel();
      last = finishReason;
    }
    expect(last).toBe('cancelled');
    for await (const _ of model.generate(Uint32Array.of(7), { ...sampling, maxNewTokens: 400 }, null).tokens()) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(drawn).toBeLessThan(5);
  });

  it('refuses what the engine refuses, and fails where a test wants it to', async () => {
    const failure = new EngineError('INTERNAL', 'a bug');
    const model = await createFakeEngine({ beforeToken: () => Promise.reject(failure) }).loadModel('/m', 'stored');
    const refused = (ids: Uint32Array) => () => model.generate(ids, sampling, null);
    expect(refused(new Uint32Array(512))).toThrow(expect.objectContaining({ code: 'SEQUENCE_TOO_LONG' }));
    expect(refused(Uint32Array.of(259))).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    expect(refused(new Uint32Array())).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    await expect(all(model.generate(Uint32Array.of(7), sampling, null).tokens())).rejects.toBe(failure);
  });

  it('scores every id', async () => {
    const model = await createFakeEngine().loadModel('/m', 'stored');
    const { logprobs, topTokenIds, topLogits } = await model.score(Uint32Array.of(7, 8), 2, null);
    expect([Array.from(logprobs), Array.from(topTokenIds), Array.from(topLogits)]).toEqual([
      [Number.NaN, -1],
      [0, 1, 0, 1],
      [-0, -1, -0, -1],
    ]);
  });
});

describe('checkpoints', () => {
  const folderOf = (): string => mkdtempSync(join(scratch, 'checkpoint-'));
  const resume = async (folder: string, settings: Partial<TrainingConfig> = {}, options: FakeEngineOptions = {}) => {
    const model = await createFakeEngine(options).loadModel('/m', 'stored');
    return model.train({ ...config, ...settings }, examples, examples, folder);
  };

  it('are taken every so many steps and when asked for, and the run goes on', async () => {
    const run = await start({}, { saveSteps: 3 });
    await expect(run.saveCheckpoint(folderOf())).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    const events = await all(run.events());
    expect(events.flatMap((event) => (event.kind === 'checkpoint' ? [event.globalStep] : []))).toEqual([3]);
    const asked = await start();
    asked.requestCheckpoint();
    asked.requestCheckpoint();
    const seen = await all(asked.events());
    expect(seen.flatMap((event) => (event.kind === 'checkpoint' ? [event.globalStep] : []))).toEqual([1]);
    expect(seen.at(-1)).toEqual({ kind: 'finished' });
  });

  it('of a paused run are gone on from: its events are the rest', async () => {
    const straight = await all((await start()).events());
    const run = await start({ beforeStep: (step) => (step === 3 ? run.pause() : undefined) });
    const first = await all(run.events());
    expect(first.at(-1)).toEqual({ kind: 'paused', globalStep: 2 });
    const folder = folderOf();
    const saved = await run.saveCheckpoint(folder);
    expect(saved).toMatchObject({ globalStep: 2, files: [{ name: 'state.json' }] });
    const rest = await all((await resume(folder)).events());
    expect(rest[0]).toMatchObject({ kind: 'started', resumed: { globalStep: 2, differences: [] } });
    expect([...first.slice(0, -1), ...rest.slice(1)]).toEqual(straight);
    const other = await resume(folder, {}, { deviceName: 'other' });
    expect((await all(other.events()))[0]).toMatchObject({
      resumed: { differences: ['device: fake then, other now'] },
    });
  });

  it('that are broken or of another run are refused by name', async () => {
    const run = await start({}, { saveSteps: 1 });
    await all(run.events());
    const folder = folderOf();
    await run.saveCheckpoint(folder);
    await expect(resume(folder, { learningRate: 1 })).rejects.toMatchObject({
      code: 'CHECKPOINT_MISMATCH',
      message: expect.stringMatching(/^learningRate differs: 0\.001 in the checkpoint, 1 now/),
    });
    // It changes no number.
    await resume(folder, { saveSteps: 7 });
    truncateSync(join(folder, 'state.json'), 100);
    await expect(resume(folder)).rejects.toMatchObject({ code: 'CHECKPOINT_CORRUPT' });
    rmSync(join(folder, 'state.json'));
    await expect(resume(folder)).rejects.toMatchObject({ code: 'CHECKPOINT_CORRUPT' });
  });

  it('are not needed to stop early: the step under way is the last', async () => {
    const run = await start({ beforeStep: (step) => (step === 2 ? run.stopAfterStep() : undefined) });
    const events = await all(run.events());
    const kinds = events.slice(-3).map(({ kind }) => kind);
    expect(kinds).toEqual(['step', 'evaluation', 'finished']);
    expect(events.filter(({ kind }) => kind === 'step')).toHaveLength(2);
  });
});
