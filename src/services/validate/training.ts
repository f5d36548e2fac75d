import { z } from 'zod';
import type { EngineInfo } from '../../engine/engine.ts';
import { LuthierError } from '../../errors/luthier-error.ts';
import { OverLengthPolicy, TrainOn } from '../../gen/luthier/v1/common.ts';
import { LoraSpec, TrainingSpec } from '../../gen/luthier/v1/training_service.ts';
import {
  expected,
  finiteNumber,
  loadInField,
  member,
  nameField,
  optionalName,
  positiveNumber,
  requestId,
  resourceId,
  resourceName,
  templateField,
  wholeNumber,
} from './fields.ts';
import { labelsField } from './labels.ts';
import { checkSchedule, schedulerKwargs, schedulerType } from './schedule.ts';

const UINT32 = 2 ** 32 - 1;
/** transformers' default of eval_steps. */
const EVAL_STEPS = 500;
/** transformers' default of save_steps. */
const SAVE_STEPS = 500;
const SAVE_INTERVAL_SECONDS = 60;
/** A timer waits at most 2^31 - 1 milliseconds. */
const MAX_INTERVAL_SECONDS = 2_000_000;

const moduleNames = z
  .array(z.string().min(1, expected('a module name')).max(1024, expected('at most 1024 characters')))
  .max(1024, expected('at most 1024 names'));
const pattern = z.string().max(4096, expected('at most 4096 characters'));
/** At most so many entries of rank_pattern and alpha_pattern. */
const MAX_PATTERNS = 256;
const byModule = <Value extends z.ZodType>(value: Value) =>
  z
    .record(z.string().min(1, expected('a module name')).max(1024, expected('at most 1024 characters')), value)
    .refine((entries) => Object.keys(entries).length <= MAX_PATTERNS, expected(`at most ${MAX_PATTERNS} entries`));

const shareBelowOne = z.number(expected('a share')).min(0, expected('at least 0')).lt(1, expected('a share below 1'));

const loraFields = z.object({
  r: wholeNumber(1, 1024).default(8),
  loraAlpha: positiveNumber(1e6).default(16),
  loraDropout: shareBelowOne.default(0),
  useRslora: z.boolean(),
  targetModules: moduleNames,
  targetPattern: pattern,
  excludeModules: moduleNames,
  excludePattern: pattern,
  layersToTransform: z.array(wholeNumber(0, 65_535)).max(4096, expected('at most 4096 layers')),
  layersPattern: z.array(pattern).max(16, expected('at most 16 patterns')),
  rankPattern: byModule(wholeNumber(1, 1024)),
  alphaPattern: byModule(positiveNumber(1e6)),
});

/** PEFT's LoraConfig. */
const lora = loraFields
  .refine(({ targetModules, targetPattern }) => targetPattern === '' || targetModules.length === 0, {
    path: ['targetPattern'],
    message: 'expected nothing where target_modules names the modules',
  })
  .refine(({ excludeModules, excludePattern }) => excludePattern === '' || excludeModules.length === 0, {
    path: ['excludePattern'],
    message: 'expected nothing where exclude_modules names the modules',
  })
  .refine(({ layersToTransform, targetPattern }) => targetPattern === '' || layersToTransform.length === 0, {
    path: ['layersToTransform'],
    message: 'expected nothing where target_pattern can name the layers itself',
  })
  .refine(({ layersToTransform, layersPattern }) => layersPattern.length === 0 || layersToTransform.length > 0, {
    path: ['layersPattern'],
    message: 'expected nothing without layers_to_transform',
  });

interface Evaluated {
  readonly evalDataset: string;
  readonly validationSplit: number;
  readonly evalStrategy?: string | undefined;
  readonly evalSteps?: number | undefined;
  readonly loadBestModelAtEnd: boolean;
  readonly earlyStoppingPatience?: number | undefined;
  readonly earlyStoppingThreshold: number;
}

/** Refuses settings of evaluations that contradict each other, or need evaluations where there are none. */
function checkEvaluation(spec: Evaluated, context: Pick<z.RefinementCtx, 'addIssue'>): void {
  const { evalStrategy, evalSteps, earlyStoppingPatience, earlyStoppingThreshold } = spec;
  const refuse = (name: keyof Evaluated, message: string): void =>
    context.addIssue({ code: 'custom', path: [name], message });
  if (evalSteps !== undefined && evalStrategy !== undefined && evalStrategy !== 'steps') {
    refuse('evalSteps', `expected nothing with eval_strategy ${evalStrategy}, found ${evalSteps}`);
  }
  if (earlyStoppingThreshold > 0 && earlyStoppingPatience === undefined) {
    refuse('earlyStoppingThreshold', `expected 0 without early_stopping_patience, found ${earlyStoppingThreshold}`);
  }
  if (evalStrategy !== 'no' && (spec.evalDataset !== '' || spec.validationSplit > 0)) return;
  const missing = 'expected held-out examples that are evaluated (eval_dataset or validation_split); found none';
  if (spec.loadBestModelAtEnd) refuse('loadBestModelAtEnd', missing);
  if (earlyStoppingPatience !== undefined) refuse('earlyStoppingPatience', missing);
}

interface Saved {
  readonly saveStrategy?: string | undefined;
  readonly saveSteps?: number | undefined;
  readonly saveIntervalSeconds?: number | undefined;
}

/** As the contract says where nothing is asked for. */
const saveStrategyOf = ({ saveStrategy, saveSteps }: Saved): string =>
  saveStrategy ?? (saveSteps === undefined ? 'interval' : 'steps');

/** Refuses settings of checkpoints that contradict each other. */
function checkSaving(spec: Saved, context: Pick<z.RefinementCtx, 'addIssue'>): void {
  const strategy = saveStrategyOf(spec);
  const refuse = (name: keyof Saved, message: string): void =>
    context.addIssue({ code: 'custom', path: [name], message });
  if (spec.saveSteps !== undefined && strategy !== 'steps') {
    refuse('saveSteps', `expected nothing with save_strategy ${strategy}, found ${spec.saveSteps}`);
  }
  if (spec.saveIntervalSeconds !== undefined && strategy !== 'interval') {
    const why = spec.saveStrategy === undefined ? 'save_steps' : `save_strategy ${strategy}`;
    refuse('saveIntervalSeconds', `expected nothing with ${why}, found ${spec.saveIntervalSeconds}`);
  }
}

/** TrainingSpec with every default written out; transformers' TrainingArguments. */
const specSchema = z
  .object(
    {
      model: resourceName('a model: `models/{id}` or a path'),
      dataset: resourceName('a data set: `datasets/{id}`'),
      evalDataset: optionalName,
      validationSplit: shareBelowOne,
      output: resourceId,
      template: templateField,
      trainOn: member(TrainOn, 'a TrainOn').transform((value) => (value === 0 ? TrainOn.TRAIN_ON_ASSISTANT : value)),
      maxSeqLength: wholeNumber(0, UINT32),
      overLength: member(OverLengthPolicy, 'an OverLengthPolicy').transform((value) =>
        value === 0 ? OverLengthPolicy.OVER_LENGTH_POLICY_ERROR : value,
      ),
      lora: lora.optional().transform((value) => value ?? lora.parse(LoraSpec.create())),
      initAdapter: optionalName,
      loadIn: loadInField,
      learningRate: finiteNumber(0, 100).default(5e-5),
      lrSchedulerType: schedulerType.default('linear'),
      lrSchedulerKwargs: schedulerKwargs.optional(),
      optim: nameField(['adamw_torch', 'adamw_torch_fused', 'adamw_8bit', 'adamw_bnb_8bit']).default('adamw_torch'),
      loraplusLrRatio: positiveNumber(1e6).default(1),
      labelSmoothingFactor: shareBelowOne.default(0),
      neftuneNoiseAlpha: finiteNumber(0, 1e6).default(0),
      lossNormalization: nameField(['tokens', 'microbatch_mean']).default('tokens'),
      warmupSteps: finiteNumber(0, UINT32).default(0),
      weightDecay: finiteNumber(0, 100).default(0),
      adamBeta1: finiteNumber(0, 0.999999999).default(0.9),
      adamBeta2: finiteNumber(0, 0.999999999).default(0.999),
      adamEpsilon: positiveNumber(1).default(1e-8),
      maxGradNorm: finiteNumber(0, 1e9).default(1),
      perDeviceTrainBatchSize: wholeNumber(1, 65_536).default(8),
      gradientAccumulationSteps: wholeNumber(1, 65_536).default(1),
      numTrainEpochs: positiveNumber(1e6).default(3),
      maxSteps: wholeNumber(1, UINT32).optional(),
      perDeviceEvalBatchSize: wholeNumber(1, 65_536).default(8),
      evalSteps: wholeNumber(1, UINT32).optional(),
      evalStrategy: nameField(['steps', 'epoch', 'no']).optional(),
      loadBestModelAtEnd: z.boolean(),
      // As in transformers, `eval_` may be left out.
      metricForBestModel: nameField(['eval_loss', 'loss', 'eval_token_loss', 'token_loss'])
        .default('eval_loss')
        .transform((name) => (name.startsWith('eval_') ? name : `eval_${name}`)),
      earlyStoppingPatience: wholeNumber(1, UINT32).optional(),
      earlyStoppingThreshold: finiteNumber(0, 1e9).default(0),
      maxNonFiniteSteps: wholeNumber(0, UINT32).default(0),
      saveStrategy: nameField(['interval', 'steps', 'epoch', 'no']).optional(),
      saveSteps: wholeNumber(1, UINT32).optional(),
      saveTotalLimit: wholeNumber(1, UINT32).default(2),
      saveIntervalSeconds: wholeNumber(1, MAX_INTERVAL_SECONDS).optional(),
      labels: labelsField,
      shuffle: z.boolean().default(true),
      seed: wholeNumber(0, UINT32).default(42),
      dataSeed: wholeNumber(0, UINT32).optional(),
      packing: z.boolean(),
      groupByLength: z.boolean(),
      computeDtype: z.string(),
      gradientCheckpointing: z.boolean(),
      offloadActivations: z.boolean(),
      recomputeLayers: wholeNumber(0, UINT32).optional(),
    },
    'expected a spec, found nothing',
  )
  .refine((spec) => spec.evalDataset === '' || spec.validationSplit === 0, {
    path: ['validationSplit'],
    message: 'expected 0 where eval_dataset names the held-out examples',
  })
  .refine((spec) => !spec.groupByLength || spec.shuffle, {
    path: ['groupByLength'],
    message: 'expected false without shuffle: groups are made from a random order',
  })
  .refine((spec) => !spec.groupByLength || !spec.packing, {
    path: ['groupByLength'],
    message: 'expected false with packing: packed sequences have about equal lengths already',
  })
  .refine((spec) => !spec.gradientCheckpointing || spec.recomputeLayers === undefined, {
    path: ['recomputeLayers'],
    message: 'expected nothing where gradient_checkpointing asks for all layers',
  })
  .refine((spec) => !spec.offloadActivations || spec.recomputeLayers !== 0, {
    path: ['offloadActivations'],
    message: 'expected false with recompute_layers 0: the inputs of layers that keep their activations stay with them',
  })
  .superRefine(checkSchedule)
  .superRefine(checkEvaluation)
  .superRefine(checkSaving)
  .transform((spec) => {
    const evalStrategy = spec.evalStrategy ?? (spec.evalSteps === undefined ? 'epoch' : 'steps');
    const saveStrategy = saveStrategyOf(spec);
    return {
      ...spec,
      saveStrategy,
      saveSteps: spec.saveSteps ?? (saveStrategy === 'steps' ? SAVE_STEPS : undefined),
      saveIntervalSeconds:
        spec.saveIntervalSeconds ?? (saveStrategy === 'interval' ? SAVE_INTERVAL_SECONDS : undefined),
      dataSeed: spec.dataSeed ?? spec.seed,
      maxSteps: spec.maxSteps,
      evalStrategy,
      evalSteps: spec.evalSteps ?? (evalStrategy === 'steps' ? EVAL_STEPS : undefined),
      recomputeLayers: spec.recomputeLayers,
      lrSchedulerKwargs: spec.lrSchedulerKwargs,
      earlyStoppingPatience: spec.earlyStoppingPatience,
    };
  });

/** A checked spec. */
export type CheckedSpec = z.output<typeof specSchema>;

/** CreateTrainingJobRequest. */
export const createSchema = z.object({ spec: specSchema, requestId, validateOnly: z.boolean() });

/** EstimateTrainingJobRequest. */
export const estimateSchema = z.object({ spec: specSchema });

/** TrainRequest. */
export const trainSchema = z.object({
  target: z.discriminatedUnion(
    '$case',
    [
      z.object({ $case: z.literal('spec'), value: specSchema }),
      z.object({ $case: z.literal('job'), value: resourceName('a job: `trainingJobs/{id}`') }),
    ],
    'expected one of spec and job; found none',
  ),
  requestId,
  afterSequence: wholeNumber(0, UINT32),
});

/**
 * Refuses what the contract has and this version has not.
 * @param engine As `EngineInfo`.
 * @throws LuthierError NOT_BUILT_YET with the field's name
 */
export function refuseNotBuilt(
  spec: CheckedSpec,
  { device, computeDtype }: Pick<EngineInfo, 'device' | 'computeDtype'>,
): void {
  const wanted: readonly (readonly [boolean, string, string])[] = [
    [
      spec.computeDtype !== '' && spec.computeDtype !== computeDtype,
      'spec.compute_dtype',
      `expected ${computeDtype} or nothing: this server computes in it on ${device}`,
    ],
  ];
  const violations = wanted.flatMap(([asked, field, description]) =>
    asked ? [{ field, description, reason: 'NOT_BUILT_YET' }] : [],
  );
  if (violations.length === 0) return;
  const message = violations.map(({ field, description }) => `${field}: ${description}`).join('; ');
  throw new LuthierError('NOT_BUILT_YET', message, { violations });
}

/**
 * Refuses what the device has no use for.
 * @param device As `EngineInfo.device`.
 * @throws LuthierError INVALID_REQUEST with the field's name
 */
export function refuseWithoutUse(spec: CheckedSpec, device: string): void {
  if (!spec.offloadActivations || device !== 'cpu') return;
  const field = 'spec.offload_activations';
  const description = 'expected false on cpu: the processor has one memory; leave it out, or compute on a GPU';
  throw new LuthierError('INVALID_REQUEST', `${field}: ${description}`, {
    violations: [{ field, description, reason: '' }],
  });
}

/** The spec as the contract shows and the store keeps it. */
export const specMessage = (spec: CheckedSpec): TrainingSpec => TrainingSpec.fromPartial(spec);
