/** What the tests over the real addon share. */
import { fileURLToPath } from 'node:url';
import type { TrainingConfig } from '../../src/engine/engine.ts';
import { ALL_LINEAR } from '../fixtures/all-linear.ts';

/** The golden files. */
export const golden = fileURLToPath(new URL('../parity/golden', import.meta.url));

/** The device that every machine has. */
export const PROCESSOR = { device: 'cpu', threads: 2, computeType: 'bf16', embeddingInHostMemory: false } as const;

/** A short run. */
export const config: TrainingConfig = {
  lora: { r: 4, loraAlpha: 8, loraDropout: 0, useRslora: false, seed: 0, ...ALL_LINEAR },
  initAdapterPath: null,
  initAdapterAnyBase: false,
  optim: 'adamw_torch',
  learningRate: 1e-2,
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
  gradientAccumulationSteps: 1,
  numTrainEpochs: 4,
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
  recomputeLayers: 0,
  offloadActivations: false,
};
