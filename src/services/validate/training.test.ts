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
