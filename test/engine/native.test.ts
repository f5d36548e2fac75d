/** The engine's interface over the real addon, with the tiny model of the golden files. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { INSTALLED_ADDONS } from '../../src/engine/addon-files.ts';
import type {
  BaseModel,
  Engine,
  SamplingConfig,
  TrainingConfig,
  TrainingEvent,
  WeightStorage,
} from '../../src/engine/engine.ts';
import { openNativeEngine } from '../../src/engine/native.ts';
import { config, golden, PROCESSOR } from './native-settings.ts';

const scratch = mkdtempSync(join(tmpdir(), 'luthier-native-'));
let engine: Engine;
let model: BaseModel;

beforeAll(async () => {
  engine = await openNativeEngine(PROCESSOR);
  model = await engine.loadModel(join(golden, 'tied/model'), 'stored');
});

afterAll(async () => {
  model.close();
  await engine.close();
  rmSync(scratch, { recursive: true });
});

const greedy: SamplingConfig = {
  maxNewTokens: 12,
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
  eosTokenIds: [],
};

const examples = {
  inputIds: Uint32Array.from([72, 101, 108, 108, 111, 33]),
  labels: Int32Array.from([-100, -100, 108, 108, 111, 33]),
  offsets: Uint32Array.from([0, 6]),
};

async function events(settings: Partial<TrainingConfig>, cancelAfter = Number.POSITIVE_INFINITY) {
  const run = await model.train({ ...config, ...settings }, examples, examples);
  const all: TrainingEvent[] = [];
  for await (const event of run.events()) if (all.push(event) === cancelAfter) run.cancel();
  return { run, all };
}

async function generate(adapterFolder: string | null): Promise<number[]> {
  const adapter = adapterFolder === null ? null : await model.loadAdapter(adapterFolder, false);
  const ids: number[] = [];
  for await (const batch of model.generate(Uint32Array.from([72, 105]), greedy, adapter).tokens())
    ids.push(...batch.tokenIds);
  adapter?.close();
  return ids;
}

describe('devices', () => {
  it('the processor says what it is, why it was chosen, and that no GPU was looked for', () => {
    const info = engine.info();
    expect(info).toMatchObject({ device: 'cpu', threads: 2, deviceReason: 'asked for by the setting', gpus: [] });
  });

  it('auto opens on every machine and says why', async () => {
    const other = await openNativeEngine({
      device: 'auto',
      threads: 1,
      computeType: 'bf16',
      embeddingInHostMemory: false,
    });
    const { device, deviceReason } = other.info();
    expect(deviceReason).toMatch(device === 'cpu' ? /is (not )?used: / : /^the first GPU that can be used: /);
    await other.close();
  });

  it('the addon refuses a device that it was not built for, by name', () => {
    const { NativeEngine, capabilities } = INSTALLED_ADDONS.cpu();
    expect(capabilities()).toEqual({ cuda: false });
    const open = () => new NativeEngine(1, 'cuda:0', 'bf16');
    expect(open).toThrow('device cuda:0: this engine was built without CUDA; use the device cpu, or');
  });

  it('looking for GPUs gives a list or the reason why there is none', () => {
    const { probeGpus, libraryProblem } = INSTALLED_ADDONS.cpu();
    const { gpus, problem } = probeGpus();
    expect(gpus.some((gpu) => gpu.problem === null)).toBe(problem === null);
    expect(gpus.map(({ index }) => index)).toEqual(gpus.map((_, index) => index));
    expect(libraryProblem('libluthier-nowhere.so.1')).toContain('libluthier-nowhere.so.1');
  });
});

describe('quantizing ahead', () => {
  const base = join(golden, 'tied/model');

  it('writes a folder that loads as it is stored, and computes as the model that is quantized on load', async () => {
    for (const [storage, type] of [
      ['int8', 'int8'],
      ['nf4_double_quant', 'nf4'],
    ] as const) {
      const folder = join(scratch, `quantized-${storage}`);
      mkdirSync(folder);
      const run = engine.quantizeModel(base, storage, folder);
      expect(await run.finished).toBeGreaterThan(0);
      const { writtenBytes, totalBytes } = run.progress();
      expect([writtenBytes, totalBytes > 0]).toEqual([totalBytes, true]);
      const [ahead, onLoad] = [await engine.loadModel(folder, 'stored'), await engine.loadModel(base, storage)];
      // Embeddings, which stay as they are, may outweigh the linear layers of a tiny model.
      expect(ahead.metadata.format).toBe('safetensors');
      expect(readFileSync(join(folder, 'config.json'), 'utf8')).toContain('"quant_method": "bitsandbytes"');
      expect(onLoad.storageType).toBe(type);
      const [found, expected] = await Promise.all([ahead, onLoad].map((one) => one.score(examples.inputIds, 3, null)));
      expect(found).toEqual(expected);
      for (const one of [ahead, onLoad]) one.close();
    }
  });

  it('says why it cannot, and ends where it is cancelled', async () => {
    const folder = join(scratch, 'not-quantized');
    mkdirSync(folder);
    const failed = (path: string, storage: WeightStorage) => engine.quantizeModel(path, storage, folder).finished;
    await expect(failed(base, 'bf16')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(failed(join(scratch, 'nowhere'), 'int8')).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
    await expect(failed(base, 'int8')).resolves.toBeGreaterThan(0);
    await expect(failed(base, 'int8')).rejects.toMatchObject({ code: 'IO' });
    const empty = join(scratch, 'cancelled');
    mkdirSync(empty);
    const run = engine.quantizeModel(base, 'int8', empty);
    run.cancel();
    await expect(run.finished).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('training', () => {
  it('with every layer recomputed, the same numbers in less memory', async () => {
    const steps = async (recomputeLayers: 0 | 'all', offloadActivations: boolean) => {
      const { all } = await events({ recomputeLayers, offloadActivations });
      return all.flatMap((event) => (event.kind === 'step' ? [event.step] : []));
    };
    const [kept, again, offloaded] = [await steps(0, false), await steps('all', false), await steps('all', true)];
    for (const other of [again, offloaded]) {
      expect(other.map(({ loss, gradNorm }) => [loss, gradNorm])).toEqual(
        kept.map(({ loss, gradNorm }) => [loss, gradNorm]),
      );
    }
    expect(again[0]?.allocatedBytes).toBeLessThan(kept[0]?.allocatedBytes ?? 0);
  });

  it('is planned before the model is loaded, as it is then run', async () => {
    const { path, contentHash } = model.metadata;
    const asked = { path, storage: 'stored', loaded: false, contentHash } as const;
    const estimate = await engine.estimateTraining(asked, config, examples, examples);
    const { memory } = estimate;
    expect(memory).toMatchObject({ recomputeLayers: 0, pinnedHostBytes: 0, refusal: null, suggestions: [] });
    // Scratch of earlier runs at most: the weights count as still to be loaded.
    expect(memory.heldBytes).toBeLessThanOrEqual(memory.scratchBytes);
    expect(memory.weightBytes + memory.adapterBytes + memory.activationBytes + memory.scratchBytes).toBe(
      memory.totalBytes,
    );
    expect(memory.freeBytes).toBeGreaterThan(memory.totalBytes);
    const started = (await events({})).all.find((event) => event.kind === 'started');
    const { maxSteps, runTokens, trainableParameters, targetModules } = estimate;
    expect(started).toMatchObject({ maxSteps, runTokens, trainableParameters, targetModules });
    expect(started?.memory.totalBytes).toBe(memory.totalBytes);
  });

  it('refuses an estimate of what cannot be run', async () => {
    const { path, contentHash } = model.metadata;
    const asked = { path, storage: 'stored', loaded: false, contentHash } as const;
    const estimate = (settings: Partial<TrainingConfig>, model = {}) =>
      engine.estimateTraining({ ...asked, ...model }, { ...config, ...settings }, examples, null);
    await expect(estimate({ learningRate: Number.NaN })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(estimate({}, { path: '/nowhere.gguf' })).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
    const lora = { ...config.lora, targetModules: ['nothing'] };
    await expect(estimate({ lora })).rejects.toMatchObject({ code: 'UNKNOWN_TARGET_MODULE' });
    await expect(estimate({ initAdapterPath: scratch })).rejects.toMatchObject({ code: 'ADAPTER_NOT_FOUND' });
  });

  it('reads the regular expressions of new adapters alone', () => {
    const check = (lora: Partial<TrainingConfig['lora']>) => engine.checkTargets({ ...config.lora, ...lora });
    check({ targetModules: '.*\\.(?!self)[a-z]+_proj', rankPattern: { '(gate|up)_proj': 4 } });
    const unreadable: Partial<TrainingConfig['lora']>[] = [
      { targetModules: '(q_proj' },
      { targetModules: 'a)|(b' },
      { excludeModules: '[a-' },
      { rankPattern: { '(gate': 4 } },
      { layersToTransform: [0], layersPattern: ['('] },
    ];
    for (const lora of unreadable) {
      expect(() => check(lora), JSON.stringify(lora)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    }
  });

  it('tells every step, saves an adapter, and generates with it', async () => {
    const { run, all } = await events({});
    expect(all.map(({ kind }) => kind)).toEqual([
      'started',
      'evaluation',
      ...['step', 'evaluation', 'step', 'evaluation', 'step', 'evaluation', 'step', 'evaluation'],
      'finished',
    ]);
    const steps = all.flatMap((event) => (event.kind === 'step' ? [event.step] : []));
    expect(steps.map(({ learningRate }) => learningRate)).toEqual([0.01, 0.0075, 0.005, 0.0025]);
    expect(steps.at(-1)?.loss).toBeLessThan(steps[0]?.loss ?? 0);
    expect(steps[0]).toMatchObject({ globalStep: 1, maxSteps: 4, epoch: 1, tokens: 6, labelTokens: 4 });

    const folder = mkdtempSync(join(scratch, 'adapter-'));
    const metadata = {
      baseModelName: 'tied',
      baseModelHash: model.metadata.contentHash,
      templateId: 't',
      templateHash: 'h',
      template: '',
    };
    const saved = await run.saveAdapter(folder, metadata);
    run.close();
    const info = await engine.readAdapter(folder);
    expect(info).toMatchObject({ r: 4, loraAlpha: 8, sha256: saved.sha256, metadata, parameterCount: 6400 });
    expect(await generate(folder)).not.toEqual(await generate(null));
  });

  it('adapts what is asked for, with the ranks asked for, and writes it as PEFT does', async () => {
    const lora = {
      ...config.lora,
      targetModules: '.*(q|up)_proj',
      excludeModules: ['0.mlp.up_proj'],
      rankPattern: { q_proj: 2 },
      alphaPattern: { up_proj: 3 },
    };
    const { run, all } = await events({ lora, maxSteps: 1 });
    // q_proj [48, 48] of both layers with rank 2, up_proj [112, 48] of one with rank 4.
    expect(all[0]).toMatchObject({ trainableParameters: 2 * 2 * (48 + 48) + 4 * (112 + 48) });
    const folder = mkdtempSync(join(scratch, 'patterns-'));
    await run.saveAdapter(folder, {
      baseModelName: '',
      baseModelHash: 'other',
      templateId: '',
      templateHash: '',
      template: '',
    });
    run.close();
    expect(JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'))).toMatchObject({
      target_modules: lora.targetModules,
      exclude_modules: lora.excludeModules,
      rank_pattern: lora.rankPattern,
      alpha_pattern: lora.alphaPattern,
    });
    await expect(model.loadAdapter(folder, false)).rejects.toMatchObject({ code: 'ADAPTER_MISMATCH' });
    (await model.loadAdapter(folder, true)).close();
  });

  it('with dropout, other steps from each seed, the same ones again, and the share in the adapter', async () => {
    const dropped = async (loraDropout: number, seed: number) => {
      // From an adapter that changes the model at once; B is 0 in a new one.
      const lora = { ...config.lora, loraDropout, seed };
      const { run, all } = await events({ lora, initAdapterPath: join(golden, 'tied/init_adapter') });
      const losses = all.flatMap((event) => (event.kind === 'step' ? [event.step.loss] : []));
      const evaluations = all.flatMap((event) => (event.kind === 'evaluation' ? [event.evaluation.loss] : []));
      return { run, losses, before: evaluations[0] };
    };
    const [first, again, other, none] = [
      await dropped(0.25, 1),
      await dropped(0.25, 1),
      await dropped(0.25, 2),
      await dropped(0, 1),
    ];
    expect(again.losses).toEqual(first.losses);
    expect(other.losses[0]).not.toBe(first.losses[0]);
    expect(none.losses[0]).not.toBe(first.losses[0]);
    expect(first.before).toBe(none.before);
    const folder = mkdtempSync(join(scratch, 'dropout-'));
    const metadata = { baseModelName: '', baseModelHash: '', templateId: '', templateHash: '', template: '' };
    await first.run.saveAdapter(folder, metadata);
    expect(JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'))).toMatchObject({ lora_dropout: 0.25 });
    for (const { run } of [first, again, other, none]) run.close();
  });

  it('follows the schedule it is given, says which evaluation is the best, and stops early', async () => {
    const settings = {
      optim: 'adamw_8bit',
      loraplusLrRatio: 2,
      lrSchedulerType: 'warmup_stable_decay',
      lrSchedulerKwargs: { numDecaySteps: 2, decayType: 'linear' },
      labelSmoothingFactor: 0.1,
      neftuneNoiseAlpha: 0.5,
      lossNormalization: 'microbatch_mean',
      metricForBestModel: 'eval_token_loss',
      loadBestModelAtEnd: true,
      maxNonFiniteSteps: 1,
    };
    const whole = await events(settings);
    const rates = whole.all.flatMap((event) => (event.kind === 'step' ? [event.step.learningRate] : []));
    expect(rates).toEqual([0.01, 0.01, 0.01, 0.005]);
    const verdicts = whole.all.flatMap((event) => (event.kind === 'evaluation' ? [event.evaluation] : []));
    expect(verdicts[0]).toMatchObject({ globalStep: 0, best: false, stops: false });
    expect(verdicts[1]).toMatchObject({ globalStep: 1, best: true, stops: false });
    // No improvement is as large as that.
    const stopped = await events({ ...settings, earlyStoppingPatience: 2, earlyStoppingThreshold: 100 });
    expect(stopped.all.at(-2)).toMatchObject({ kind: 'evaluation', evaluation: { globalStep: 3, stops: true } });
    expect(stopped.all.at(-1)).toEqual({ kind: 'finished' });
    for (const { run } of [whole, stopped]) run.close();
  });

  it('is cancelled between two micro-batches', async () => {
    const { run, all } = await events({ maxSteps: 1_000_000 }, 5);
    expect(all.at(-1)).toEqual({ kind: 'cancelled' });
    const folder = mkdtempSync(join(scratch, 'cancelled-'));
    const metadata = { baseModelName: '', baseModelHash: '', templateId: '', templateHash: '', template: '' };
    expect((await run.saveAdapter(folder, metadata)).bytes).toBeGreaterThan(0);
    run.close();
    await expect(run.saveAdapter(folder, metadata)).rejects.toMatchObject({ code: 'CLOSED' });
  });

  it.each([
    [{ learningRate: Number.NaN }, 'INVALID_ARGUMENT', /learning_rate is NaN/],
    [{ lora: { ...config.lora, loraDropout: 1 } }, 'INVALID_ARGUMENT', /lora_dropout is 1; expected .* below 1/],
    [{ lrSchedulerType: 'polinomial' }, 'INVALID_ARGUMENT', /polinomial.*cosine/],
    [{ lrSchedulerKwargs: { numCycles: 2 } }, 'INVALID_ARGUMENT', /num_cycles.*expected nothing/],
    [{ optim: 'sgd' }, 'INVALID_ARGUMENT', /optim is `sgd`.*adamw_8bit/],
    [{ lora: { ...config.lora, targetModules: ['qq_proj'] } }, 'UNKNOWN_TARGET_MODULE', /qq_proj.*q_proj/],
    [{ lora: { ...config.lora, targetModules: '(q_proj' } }, 'INVALID_ARGUMENT', /\(q_proj/],
    [{ lora: { ...config.lora, rankPattern: { qq_proj: 2 } } }, 'UNKNOWN_TARGET_MODULE', /qq_proj/],
    [{ lora: { ...config.lora, layersToTransform: [2] } }, 'UNKNOWN_TARGET_MODULE', /layer 2.*blocks 0 to 1/],
    [{ initAdapterPath: join(golden, 'untied/init_adapter') }, 'ADAPTER_MISMATCH', /expected/],
    [{ initAdapterPath: join(golden, 'none') }, 'ADAPTER_NOT_FOUND', /none/],
  ])('refuses %j', async (settings, code, message) => {
    await expect(events(settings)).rejects.toMatchObject({
      name: 'EngineError',
      code,
      message: expect.stringMatching(message),
    });
  });
});

describe('generation', () => {
  it('reports the id that ends the sequence beside the others', async () => {
    const whole = await generate(null);
    const eos = whole[3] ?? 0;
    const batches = [];
    for await (const batch of model
      .generate(Uint32Array.from([72, 105]), { ...greedy, eosTokenIds: [eos] }, null)
      .tokens()) {
      batches.push(batch);
    }
    expect(batches.at(-1)).toMatchObject({ finishReason: 'eos', eosTokenId: eos });
    expect(batches.flatMap(({ tokenIds }) => [...tokenIds])).toEqual(whole.slice(0, whole.indexOf(eos)));
  });

  it('ends when it is cancelled, and when its reader leaves', async () => {
    const long = model.generate(Uint32Array.from([1]), { ...greedy, maxNewTokens: 500 }, null);
    let reason: string | null = null;
    for await (const batch of long.tokens()) {
      long.cancel();
      reason = batch.finishReason;
    }
    expect(reason).toBe('cancelled');
    for await (const _ of model.generate(Uint32Array.from([1]), { ...greedy, maxNewTokens: 500 }, null).tokens()) break;
  });

  it('refuses a prompt without room and ids outside the vocabulary', async () => {
    expect(() => model.generate(new Uint32Array(512), greedy, null)).toThrow(
      expect.objectContaining({ code: 'SEQUENCE_TOO_LONG' }),
    );
    expect(() => model.generate(Uint32Array.from([288]), greedy, null)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
    await expect(model.score(new Uint32Array(0), 0, null)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('files', () => {
  it('knows what a folder holds without loading it', async () => {
    const metadata = await engine.readMetadata(join(golden, 'untied/model'));
    expect(metadata).toMatchObject({
      architecture: 'llama',
      vocabSize: 288,
      tieWordEmbeddings: false,
      eosTokenIds: [257, 259],
    });
    expect(metadata.tokenizer).toEqual({ kind: 'huggingface', folder: join(golden, 'untied/model') });
  });

  it('refuses what is missing, cut off or something else', async () => {
    const broken = join(scratch, 'broken');
    cpSync(join(golden, 'tied/model'), broken, { recursive: true });
    truncateSync(join(broken, 'model.safetensors'), 20_000);
    await expect(engine.loadModel(broken, 'stored')).rejects.toMatchObject({ code: 'MODEL_CORRUPT' });
    const text = join(scratch, 'text.gguf');
    writeFileSync(text, 'no model');
    await expect(engine.loadModel(text, 'stored')).rejects.toMatchObject({ code: 'MODEL_CORRUPT' });
    await expect(engine.loadModel(join(scratch, 'none'), 'stored')).rejects.toMatchObject({ code: 'MODEL_NOT_FOUND' });
    await expect(model.loadAdapter(join(golden, 'untied/init_adapter'), false)).rejects.toMatchObject({
      code: 'ADAPTER_MISMATCH',
    });
  });
});

describe('merging', () => {
  it('writes a model that answers as base and adapter do', async () => {
    const adapter = join(golden, 'tied/trained_adapter');
    const base = { path: join(golden, 'tied/model'), contentHash: null, storage: 'stored' } as const;
    const folder = mkdtempSync(join(scratch, 'merged-'));
    const merged = await engine.mergeAdapter(base, adapter, 'safetensors_f16', folder);
    expect(merged).toMatchObject({ dequantizedFrom: null, hasTokenizer: true });
    const alone = await engine.loadModel(folder, 'stored');
    const handle = await model.loadAdapter(adapter, false);
    const ids = Uint32Array.from([1, 2, 3, 250, 7]);
    const [found, expected, without] = [
      await alone.score(ids, 0, null),
      await model.score(ids, 0, handle),
      await model.score(ids, 0, null),
    ];
    const off = (a: Float32Array, b: Float32Array): number =>
      Math.max(...a.subarray(1).map((value, index) => Math.abs(value - (b[index + 1] ?? Number.NaN))));
    expect(off(found.logprobs, expected.logprobs)).toBeLessThan(0.02);
    expect(off(without.logprobs, expected.logprobs)).toBeGreaterThan(0.1);
    handle.close();
    alone.close();
    // The folder's tokenizer goes into the file.
    const gguf = mkdtempSync(join(scratch, 'gguf-'));
    expect(await engine.mergeAdapter(base, adapter, 'gguf_f16', gguf)).toMatchObject({ hasTokenizer: true });
    const file = await engine.loadModel(join(gguf, 'model.gguf'), 'stored');
    expect(off((await file.score(ids, 0, null)).logprobs, expected.logprobs)).toBeLessThan(0.02);
    file.close();
  });
});

describe('forms of the weights', () => {
  const folder = join(golden, 'tied/model');
  const firstLoss = async (base: BaseModel): Promise<number> => {
    const run = await base.train({ ...config, maxSteps: 1 }, examples, null);
    try {
      for await (const event of run.events()) if (event.kind === 'step') return event.step.loss;
      throw new Error('no step');
    } finally {
      run.close();
    }
  };

  it('loads each of them, says what it is, and trains and scores with it', async () => {
    const exact = await firstLoss(model);
    const types = {
      stored: 'f32',
      bf16: 'bf16',
      f16: 'f16',
      int8: 'int8',
      nf4: 'nf4',
      nf4_double_quant: 'nf4',
    } as const;
    const sizes = new Map<string, number>();
    for (const [storage, storageType] of Object.entries(types)) {
      const base = await engine.loadModel(folder, storage as WeightStorage);
      expect(base).toMatchObject({ storage, storageType });
      // The files are the same, however their weights are held.
      expect(base.metadata).toEqual(model.metadata);
      sizes.set(storage, base.loadedBytes);
      const loss = await firstLoss(base);
      expect(Math.abs(loss - exact)).toBeLessThan(0.1 * exact);
      expect(loss === exact).toBe(storage === 'stored');
      const { logprobs } = await base.score(Uint32Array.from([72, 101, 108]), 0, null);
      expect(logprobs.subarray(1).every((logprob) => logprob < 0)).toBe(true);
      base.close();
    }
    expect(sizes.get('stored')).toBe(model.metadata.storedBytes);
    const order = ['stored', 'bf16', 'int8', 'nf4'].map((storage) => sizes.get(storage) ?? 0);
    expect(order).toEqual([...order].sort((a, b) => b - a));
    const prices = await engine.weightBytes(folder, ['stored', 'bf16', 'int8', 'nf4']);
    expect(prices).toHaveLength(4);
    // Rounded up, for each of its pieces.
    for (const [index, price] of prices.entries()) {
      expect(price).toBeGreaterThanOrEqual(order[index] ?? Number.NaN);
      expect(price).toBeLessThan((order[index] ?? Number.NaN) + 10_000);
    }
    await expect(engine.weightBytes(join(folder, 'none'), ['stored'])).rejects.toMatchObject({
      code: 'MODEL_NOT_FOUND',
    });
  });

  it('refuses an unknown one by name', async () => {
    await expect(engine.loadModel(folder, 'fp4' as WeightStorage)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/`fp4`.*nf4_double_quant/),
    });
  });
});

describe('closing', () => {
  it('refuses a closed model and ends runs of a closed engine', async () => {
    const other = await openNativeEngine({
      device: 'cpu',
      threads: 1,
      computeType: 'bf16',
      embeddingInHostMemory: false,
    });
    const base = await other.loadModel(join(golden, 'tied/model'), 'stored');
    const run = await base.train({ ...config, maxSteps: 1_000_000 }, examples, null);
    const reading = (async () => {
      for await (const _ of run.events());
    })();
    const ended = expect(reading).rejects.toMatchObject({ code: 'CLOSED' });
    await other.close();
    await ended;
    base.close();
    expect(() => base.generate(Uint32Array.from([1]), greedy, null)).toThrow(/closed/);
    await other.close();
    const closed = { name: 'EngineError', code: 'CLOSED' };
    await expect(other.loadModel(join(golden, 'tied/model'), 'stored')).rejects.toMatchObject(closed);
    await expect(other.readMetadata(join(golden, 'tied/model'))).rejects.toMatchObject(closed);
    await expect(other.readAdapter(join(golden, 'tied/init_adapter'))).rejects.toMatchObject(closed);
  });

  // Other systems do not say what a process has mapped.
  it.runIf(process.platform === 'linux')('frees the weights at once, or with the last run that uses them', async () => {
    const folder = join(scratch, 'mapped');
    cpSync(join(golden, 'tied/model'), folder, { recursive: true });
    const mapped = () => readFileSync('/proc/self/maps', 'utf8').includes(join(folder, 'model.safetensors'));
    const idle = await engine.loadModel(folder, 'stored');
    expect(mapped()).toBe(true);
    idle.close();
    expect(mapped()).toBe(false);

    const busy = await engine.loadModel(folder, 'stored');
    const run = await busy.train({ ...config, maxSteps: 1_000_000 }, examples, null);
    busy.close();
    let steps = 0;
    for await (const { kind } of run.events()) {
      if (kind !== 'step' || ++steps !== 3) continue;
      expect(mapped()).toBe(true);
      run.cancel();
    }
    await expect.poll(mapped).toBe(false);
    run.close();
  });

  it('refuses a closed adapter', async () => {
    const adapter = await model.loadAdapter(join(golden, 'tied/init_adapter'), false);
    adapter.close();
    adapter.close();
    expect(() => model.generate(Uint32Array.from([1]), greedy, adapter)).toThrow(
      expect.objectContaining({ code: 'CLOSED' }),
    );
  });

  /** A process with a run under way, then `rest`. */
  function processWith(rest: string) {
    const program = `
      import { openNativeEngine } from ${JSON.stringify(fileURLToPath(new URL('../../src/engine/native.ts', import.meta.url)))};
      const engine = await openNativeEngine({ device: 'cpu', threads: 1, computeType: 'bf16', embeddingInHostMemory: false });
      const model = await engine.loadModel(${JSON.stringify(join(golden, 'tied/model'))}, 'stored');
      const run = await model.train(${JSON.stringify({ ...config, maxSteps: 1_000_000 })}, {
        inputIds: Uint32Array.from([1, 2, 3]), labels: Int32Array.from([1, 2, 3]), offsets: Uint32Array.from([0, 3]),
      }, null);
      ${rest}`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', program], {
      timeout: 30_000,
      encoding: 'utf8',
    });
    return { status, stdout, stderr };
  }

  it('a process that leaves a run behind ends by itself', () => {
    expect(processWith(`console.log('left');`)).toEqual({ status: 0, stdout: 'left\n', stderr: '' });
  });

  it('a process may exit while it waits for runs and files', () => {
    const rest = `
      (async () => { for await (const _ of run.events()); })();
      const sampling = ${JSON.stringify({ ...greedy, maxNewTokens: 500 })};
      (async () => { for await (const _ of model.generate(Uint32Array.of(1), sampling, null).tokens()); })();
      engine.loadModel(${JSON.stringify(join(golden, 'untied/model'))}, 'stored');
      setTimeout(() => process.exit(7), 20);`;
    expect(processWith(rest)).toEqual({ status: 7, stdout: '', stderr: '' });
  });
});
