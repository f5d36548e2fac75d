import { expect, test } from 'vitest';
import { TrainingSpec } from '../../gen/luthier/v1/training_service.ts';
import { createSchema, refuseNotBuilt, refuseWithoutUse } from './training.ts';

const checked = (settings: Partial<TrainingSpec>) =>
  createSchema.parse({
    spec: TrainingSpec.fromPartial({ model: 'models/m', dataset: 'datasets/d', ...settings }),
    requestId: '',
    validateOnly: false,
  }).spec;

test.each([{}, { gradientCheckpointing: true }, { recomputeLayers: 3 }])(
  'layer inputs go to the host from a GPU with %j',
  (recompute) => {
    const offloading = checked({ offloadActivations: true, ...recompute });
    refuseWithoutUse(offloading, 'cuda:0');
    refuseWithoutUse(checked({ gradientCheckpointing: true }), 'cpu');
    expect(() => refuseWithoutUse(offloading, 'cpu')).toThrow('spec.offload_activations: expected false on cpu');
  },
);

test('layer inputs stay where no layer is recomputed', () => {
  checked({ recomputeLayers: 0 });
  expect(() => checked({ offloadActivations: true, recomputeLayers: 0 })).toThrow(
    'expected false with recompute_layers 0',
  );
});

test.each([
  ['cpu', 'float32', 'bfloat16'],
  ['cuda:0', 'bfloat16', 'float32'],
  ['cuda:0', 'float16', 'bfloat16'],
])('on %s the compute type is %s: nothing else may be asked for', (device, own, other) => {
  const engine = { device, computeDtype: own };
  for (const computeDtype of ['', own]) refuseNotBuilt(checked({ computeDtype }), engine);
  expect(() => refuseNotBuilt(checked({ computeDtype: other }), engine)).toThrow(
    `spec.compute_dtype: expected ${own} or nothing: this server computes in it on ${device}`,
  );
});

const refusal = (settings: Parameters<typeof TrainingSpec.fromPartial>[0]): string => {
  const spec = TrainingSpec.fromPartial({ model: 'models/m', dataset: 'datasets/d', ...settings });
  const result = createSchema.safeParse({ spec, requestId: '', validateOnly: false });
  return (result.error?.issues ?? []).map(({ path, message }) => `${path.slice(1).join('.')}: ${message}`).join('; ');
};

test.each([
  [{ lrSchedulerType: 'cosin' }, /^lrSchedulerType: .*constant_with_warmup.*found "cosin"; did you mean cosine\?$/],
  [{ optim: 'adamw_8bits' }, /^optim: .*did you mean adamw_8bit\?$/],
  [{ lrSchedulerKwargs: { numCycles: 3 } }, /^lrSchedulerKwargs\.numCycles: expected nothing with .* linear$/],
  [{ lrSchedulerType: 'cosine', lrSchedulerKwargs: { power: 3 } }, /power: expected num_cycles with .* cosine$/],
  [{ lrSchedulerType: 'warmup_stable_decay' }, /numDecaySteps: expected a whole number/],
  [{ lrSchedulerType: 'cosine_with_min_lr' }, /minLr: expected one of min_lr and min_lr_rate; found none/],
  [
    { lrSchedulerType: 'cosine_with_min_lr', lrSchedulerKwargs: { minLr: 1e-6, minLrRate: 0.1 } },
    /minLr: expected one of .* found both/,
  ],
  [{ lrSchedulerType: 'polynomial', learningRate: 1e-8 }, /lrEnd: expected less than learning_rate, 1e-8; found 1e-7/],
  [{ lrSchedulerType: 'inverse_sqrt', lrSchedulerKwargs: { timescale: 0 } }, /timescale: expected a number above 0/],
  [{ labelSmoothingFactor: 1 }, /labelSmoothingFactor: expected a share below 1/],
  [{ lossNormalization: 'mean' }, /lossNormalization: expected one of tokens, microbatch_mean/],
  [{ evalStrategy: 'epoch', evalSteps: 5, validationSplit: 0.1 }, /evalSteps: expected nothing with .* epoch, found 5/],
  [{ loadBestModelAtEnd: true }, /loadBestModelAtEnd: expected held-out examples/],
  [{ loadBestModelAtEnd: true, evalStrategy: 'no', validationSplit: 0.1 }, /loadBestModelAtEnd: expected held-out/],
  [{ earlyStoppingPatience: 2 }, /earlyStoppingPatience: expected held-out examples/],
  [{ earlyStoppingThreshold: 0.1 }, /earlyStoppingThreshold: expected 0 without early_stopping_patience/],
])('%j is refused', (settings, message) => {
  expect(refusal(settings)).toMatch(message);
});

test('what goes together is accepted, and defaults are written out', () => {
  expect(checked({})).toMatchObject({
    optim: 'adamw_torch',
    evalStrategy: 'epoch',
    metricForBestModel: 'eval_loss',
    lossNormalization: 'tokens',
    loraplusLrRatio: 1,
    maxNonFiniteSteps: 0,
  });
  expect(checked({ evalSteps: 7 })).toMatchObject({ evalStrategy: 'steps', evalSteps: 7 });
  expect(checked({ evalStrategy: 'steps' }).evalSteps).toBe(500);
  expect(checked({ metricForBestModel: 'token_loss' }).metricForBestModel).toBe('eval_token_loss');
  const lrSchedulerKwargs = { numDecaySteps: 10, decayType: '1-sqrt', minLrRatio: 0.1 };
  const spec = { lrSchedulerType: 'warmup_stable_decay', lrSchedulerKwargs };
  expect(checked(spec as Partial<TrainingSpec>).lrSchedulerKwargs).toMatchObject(lrSchedulerKwargs);
});
