import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { LoadIn, OverLengthPolicy, TrainOn } from '../../typescript/src/index.ts';
import { readConfigFile } from './config-file.ts';
import { trainSettings } from './train-settings.ts';

const settings = (flags: Record<string, unknown>, file: Record<string, unknown> = {}) =>
  trainSettings(new Map(Object.entries(flags)), new Map(Object.entries(file)));

test('flags become the contract, in its types', () => {
  const { spec, run } = settings({
    model: 'models/m',
    data: 'd.jsonl',
    'learning-rate': '2e-3',
    'per-device-train-batch-size': '4',
    'warmup-steps': '0.1',
    'lora-r': '16',
    'lora-alpha': '32',
    'lora-dropout': '0.05',
    'target-modules': 'q_proj, v_proj',
    'train-on': 'last',
    'over-length': 'drop-rounds',
    'use-rslora': true,
    shuffle: false,
    'load-in': '4bit',
    output: 'adapters/facts',
  });
  expect(spec).toEqual({
    model: 'models/m',
    learningRate: 2e-3,
    perDeviceTrainBatchSize: 4,
    warmupSteps: 0.1,
    lora: { r: 16, loraAlpha: 32, loraDropout: 0.05, targetModules: ['q_proj', 'v_proj'], useRslora: true },
    trainOn: TrainOn.TRAIN_ON_LAST,
    overLength: OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS,
    shuffle: false,
    loadIn: LoadIn.LOAD_IN_4BIT,
    output: 'facts',
  });
  expect(run).toEqual({ data: 'd.jsonl' });
});

test('what is not given is left to the server, which knows the defaults', () => {
  expect(settings({}).spec).toEqual({});
  // transformers writes its default of "by epochs" as -1.
  expect(settings({}, { 'max-steps': -1 }).spec).toEqual({});
});

test('a file gives the same settings; flags win over it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-config-'));
  const path = join(folder, 'train.yaml');
  writeFileSync(path, 'model: models/m\nlearning_rate: 1e-4\nlora-r: 4\ntarget_modules: [q_proj]\nno_shuffle: true\n');
  const { spec } = trainSettings(new Map([['lora-r', '8']]), readConfigFile(path));
  expect(spec).toEqual({
    model: 'models/m',
    learningRate: 1e-4,
    lora: { r: 8, targetModules: ['q_proj'] },
    shuffle: false,
  });
  writeFileSync(path, '{"model": "models/j", "packing": false}');
  expect(trainSettings(new Map(), readConfigFile(path)).spec).toEqual({ model: 'models/j', packing: false });
  writeFileSync(path, '- a\n- b\n');
  expect(() => readConfigFile(path)).toThrow('expected names and values');
  rmSync(folder, { recursive: true });
  expect(() => readConfigFile(path)).toThrow('cannot be read');
});

test.each([
  ['learning-rate', 'nan', 'expected a number, found "nan"'],
  ['learning-rate', 'Infinity', 'expected a number, found "Infinity"'],
  ['lora-dropout', 'some', 'expected a number, found "some"'],
  ['max-steps', '1.5', 'expected a whole number, found "1.5"'],
  ['train-on', 'everything', 'expected assistant, last, all; found "everything"'],
  ['target-modules', 'q_proj,,v_proj', 'expected a,b,c'],
  ['layers-to-transform', '4-1', 'expected numbers and ranges such as 0,4-7, found "4-1"'],
  ['rank-pattern', 'q_proj', 'expected a=1,b=2, found "q_proj"'],
  ['alpha-pattern', 'q_proj=', 'expected a=1,b=2'],
  ['load-in', 'int8', 'expected stored, 16bit, 8bit, 4bit, 4bit-plain; found "int8"'],
  ['learnin-rate', '1', 'is no option of train'],
])('--%s %s is refused with what was expected', (name, value, message) => {
  expect(() => settings({ [name]: value })).toThrow(message);
});

test.each(['bf16', 'use-dora', 'warmup-ratio', 'eval-delay'])('--%s is known and refused by name', (name) => {
  expect(() => settings({}, { [name]: true })).toThrow(`--${name} is not built yet`);
});

test('modules are names or one regular expression, whose commas are its own', () => {
  const lora = (flags: Record<string, unknown>) => settings(flags).spec.lora;
  const pattern = String.raw`model\.layers\.\d{1,2}\.self_attn\..*`;
  expect(lora({ 'target-modules': pattern, 'exclude-modules': 'k_proj,1.self_attn.v_proj' })).toEqual({
    targetPattern: pattern,
    excludeModules: ['k_proj', '1.self_attn.v_proj'],
  });
  expect(lora({ 'target-modules': 'all-linear', 'exclude-modules': '.*mlp.*' })).toEqual({
    targetModules: ['all-linear'],
    excludePattern: '.*mlp.*',
  });
});

test('layers are numbers and ranges; ranks and alphas go by module', () => {
  const flags = { 'layers-to-transform': '0,4-6', 'layers-pattern': 'layers', 'rank-pattern': 'q_proj=16,up_proj=4' };
  expect(settings(flags, { 'alpha-pattern': { '^.*v_proj': 0.5 } }).spec.lora).toEqual({
    layersToTransform: [0, 4, 5, 6],
    layersPattern: ['layers'],
    rankPattern: { q_proj: 16, up_proj: 4 },
    alphaPattern: { '^.*v_proj': 0.5 },
  });
  expect(settings({}, { 'layers-to-transform': 3 }).spec.lora).toEqual({ layersToTransform: [3] });
  expect(settings({}, { 'layers-to-transform': [1, 2] }).spec.lora).toEqual({ layersToTransform: [1, 2] });
});

test("kwargs of the schedule have transformers' names, on the command line and in a file", () => {
  const { spec } = settings({ 'lr-scheduler-kwargs': 'num_decay_steps=10, decay_type=1-sqrt,min_lr_ratio=1e-1' });
  expect(spec.lrSchedulerKwargs).toEqual({ numDecaySteps: 10, decayType: '1-sqrt', minLrRatio: 0.1 });
  expect(settings({}, { 'lr-scheduler-kwargs': { num_cycles: 3 } }).spec.lrSchedulerKwargs).toEqual({ numCycles: 3 });
  const refused = (text: string) => () => settings({ 'lr-scheduler-kwargs': text });
  expect(refused('num_cycle=3')).toThrow(/num_cycle is none of .*did you mean num_cycles/);
  expect(refused('power=high')).toThrow('expected a number for power, found "high"');
  expect(refused('power')).toThrow('expected name=value');
});

test('settings of evaluation and of the optimizer', () => {
  const { spec } = settings({
    optim: 'adamw_8bit',
    'loraplus-lr-ratio': '16',
    'eval-strategy': 'steps',
    'load-best-model-at-end': true,
    'early-stopping-patience': '3',
    'neftune-noise-alpha': '5',
  });
  expect(spec).toEqual({
    optim: 'adamw_8bit',
    loraplusLrRatio: 16,
    evalStrategy: 'steps',
    loadBestModelAtEnd: true,
    earlyStoppingPatience: 3,
    neftuneNoiseAlpha: 5,
  });
});
