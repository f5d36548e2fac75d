/** The flags of `train` that describe the job: one table for the command line, configuration files and help. */
import {
  DatasetFormat,
  type DeepPartial,
  LoadIn,
  OverLengthPolicy,
  type TrainingSpec,
  TrainOn,
} from '../../typescript/src/index.ts';
import { CliError } from './failure.ts';
import { type Kind, parseFlag, type Values } from './flag-values.ts';
import { modelName } from './names.ts';
import { schedulerKwargs } from './scheduler-kwargs.ts';
import { templateOf } from './template-argument.ts';

/** A spec under construction. */
export type SpecDraft = DeepPartial<TrainingSpec>;

/** One flag: `--name value` on the command line, `name: value` in a file. */
export interface TrainingFlag {
  readonly name: string;
  readonly kind: Kind;
  readonly help: string;
  /** Writes the parsed value into the spec. */
  readonly apply: (spec: SpecDraft, value: unknown) => void;
}

function flag<K extends Kind>(
  name: string,
  kind: K,
  help: string,
  apply: (spec: SpecDraft, value: Values[K]) => void,
): TrainingFlag {
  return { name, kind, help, apply: (spec, raw) => apply(spec, parseFlag(name, kind, raw) as Values[K]) };
}

/** A value of a closed set, as the contract numbers it. */
export function choice<T>(name: string, values: Readonly<Record<string, T>>, value: string): T {
  const found = values[value.toLowerCase()];
  if (found !== undefined) return found;
  throw new CliError(`--${name}: expected ${Object.keys(values).join(', ')}; found ${JSON.stringify(value)}`);
}

export const TRAIN_ON = {
  assistant: TrainOn.TRAIN_ON_ASSISTANT,
  last: TrainOn.TRAIN_ON_LAST,
  all: TrainOn.TRAIN_ON_ALL,
};

export const OVER_LENGTH = {
  error: OverLengthPolicy.OVER_LENGTH_POLICY_ERROR,
  truncate: OverLengthPolicy.OVER_LENGTH_POLICY_TRUNCATE,
  drop_rounds: OverLengthPolicy.OVER_LENGTH_POLICY_DROP_ROUNDS,
  drop: OverLengthPolicy.OVER_LENGTH_POLICY_DROP,
};

export const FORMATS = {
  messages: DatasetFormat.DATASET_FORMAT_MESSAGES,
  prompt_completion: DatasetFormat.DATASET_FORMAT_PROMPT_COMPLETION,
  tokens: DatasetFormat.DATASET_FORMAT_TOKENS,
  conversations: DatasetFormat.DATASET_FORMAT_CONVERSATIONS,
  instruction: DatasetFormat.DATASET_FORMAT_INSTRUCTION,
  rounds: DatasetFormat.DATASET_FORMAT_ROUNDS,
  text: DatasetFormat.DATASET_FORMAT_TEXT,
};

const LOAD_IN = {
  stored: LoadIn.LOAD_IN_STORED,
  '16bit': LoadIn.LOAD_IN_16BIT,
  '8bit': LoadIn.LOAD_IN_8BIT,
  '4bit': LoadIn.LOAD_IN_4BIT,
  '4bit-plain': LoadIn.LOAD_IN_4BIT_PLAIN,
};

/** Help of `--load-in`, on every command that has it. */
export const LOAD_IN_HELP =
  "linear layers' weights as stored, in 16bit, 8bit (int8), 4bit (nf4, double quantization) or 4bit-plain (nf4 without) (default: stored)";

/** What `--load-in` says; as stored without it. */
export const loadInOf = (value: string | undefined): LoadIn =>
  value === undefined ? LoadIn.LOAD_IN_STORED : choice('load-in', LOAD_IN, value);

const lora = (spec: SpecDraft): NonNullable<SpecDraft['lora']> => {
  spec.lora ??= {};
  return spec.lora;
};

function applyRecompute(spec: SpecDraft, value: string): void {
  if (value === 'auto') return;
  if (value === 'all') spec.gradientCheckpointing = true;
  else if (/^\d{1,9}$/.test(value)) spec.recomputeLayers = Number(value);
  else throw new CliError(`--recompute-layers: expected auto, all or a number, found ${JSON.stringify(value)}`);
}

export const TRAINING_FLAGS: readonly TrainingFlag[] = [
  flag('model', 'text', 'base model: a registered name or a path', (spec, v) => {
    spec.model = modelName(v);
  }),
  flag('output', 'text', "the adapter's name", (spec, v) => {
    spec.output = v.replace(/^adapters\//, '');
  }),
  flag('label', 'labels', 'name=value, to find the job again; may be repeated', (spec, v) => {
    spec.labels = v;
  }),
  flag('init-adapter', 'text', 'adapter to start from: a registered name or a PEFT folder', (spec, v) => {
    spec.initAdapter = v;
  }),
  flag('validation-split', 'number', 'share of the examples held out, always the same ones, in [0, 1)', (spec, v) => {
    spec.validationSplit = v;
  }),
  flag('template', 'text', "template of the prompts: an id or a file (default: the model's own)", (spec, v) => {
    spec.template = templateOf(v);
  }),
  flag('train-on', 'text', 'assistant, last or all (default: assistant)', (spec, v) => {
    spec.trainOn = choice('train-on', TRAIN_ON, v);
  }),
  flag('max-seq-length', 'integer', "longest example in tokens (default: the model's context)", (spec, v) => {
    spec.maxSeqLength = v;
  }),
  flag('over-length', 'text', 'error, truncate, drop_rounds or drop (default: error)', (spec, v) => {
    spec.overLength = choice('over-length', OVER_LENGTH, v.replaceAll('-', '_'));
  }),
  flag(
    'packing',
    'boolean',
    'whole examples together in sequences of --max-seq-length, none seeing another',
    (spec, v) => {
      spec.packing = v;
    },
  ),
  flag('group-by-length', 'boolean', 'micro-batches of examples of about equal lengths', (spec, v) => {
    spec.groupByLength = v;
  }),
  flag(
    'shuffle',
    'boolean',
    'a new order each epoch (default); --no-shuffle keeps the order of the file',
    (spec, v) => {
      spec.shuffle = v;
    },
  ),
  flag('load-in', 'text', LOAD_IN_HELP, (spec, v) => {
    spec.loadIn = loadInOf(v);
  }),
  flag('gradient-checkpointing', 'boolean', 'as --recompute-layers all', (spec, v) => {
    spec.gradientCheckpointing = v;
  }),
  flag(
    'recompute-layers',
    'text',
    'layers whose activations are computed again, for less memory and more time: auto (as few as fit; default), all or a number',
    applyRecompute,
  ),
  flag(
    'offload-activations',
    'boolean',
    "on a GPU: they leave more in the host's memory instead: less memory, and faster",
    (spec, v) => {
      spec.offloadActivations = v;
    },
  ),
  flag('compute-dtype', 'text', "the server's own: float32 on a processor, bfloat16 or float16 on a GPU", (spec, v) => {
    spec.computeDtype = v;
  }),
  flag('learning-rate', 'number', 'default 5e-5', (spec, v) => {
    spec.learningRate = v;
  }),
  flag('loraplus-lr-ratio', 'number', 'LoRA+: the rate of every B over that of A (default 1)', (spec, v) => {
    spec.loraplusLrRatio = v;
  }),
  flag('optim', 'text', 'adamw_torch or adamw_8bit (default: adamw_torch)', (spec, v) => {
    spec.optim = v;
  }),
  flag(
    'lr-scheduler-type',
    'text',
    'linear, cosine, cosine_with_restarts, cosine_with_min_lr, cosine_warmup_with_min_lr, polynomial, constant, constant_with_warmup, inverse_sqrt or warmup_stable_decay (default: linear)',
    (spec, v) => {
      spec.lrSchedulerType = v;
    },
  ),
  flag('lr-scheduler-kwargs', 'settings', 'what that takes, such as num_cycles=3 or num_decay_steps=100', (spec, v) => {
    spec.lrSchedulerKwargs = schedulerKwargs(v);
  }),
  flag('warmup-steps', 'number', 'below 1: a share of all steps (default 0)', (spec, v) => {
    spec.warmupSteps = v;
  }),
  flag('weight-decay', 'number', 'default 0', (spec, v) => {
    spec.weightDecay = v;
  }),
  flag('adam-beta1', 'number', 'default 0.9', (spec, v) => {
    spec.adamBeta1 = v;
  }),
  flag('adam-beta2', 'number', 'default 0.999', (spec, v) => {
    spec.adamBeta2 = v;
  }),
  flag('adam-epsilon', 'number', 'default 1e-8', (spec, v) => {
    spec.adamEpsilon = v;
  }),
  flag('max-grad-norm', 'number', '0: off (default 1)', (spec, v) => {
    spec.maxGradNorm = v;
  }),
  flag('label-smoothing-factor', 'number', 'share of a label spread over the vocabulary (default 0)', (spec, v) => {
    spec.labelSmoothingFactor = v;
  }),
  flag('neftune-noise-alpha', 'number', 'noise on the embeddings in training; 0: off (default)', (spec, v) => {
    spec.neftuneNoiseAlpha = v;
  }),
  flag(
    'loss-normalization',
    'text',
    'tokens: by the labelled tokens of a step, or microbatch_mean (default: tokens)',
    (spec, v) => {
      spec.lossNormalization = v;
    },
  ),
  flag('max-non-finite-steps', 'integer', 'steps that may be skipped for NaN or infinity (default 0)', (spec, v) => {
    spec.maxNonFiniteSteps = v;
  }),
  flag('per-device-train-batch-size', 'integer', 'default 8', (spec, v) => {
    spec.perDeviceTrainBatchSize = v;
  }),
  flag('gradient-accumulation-steps', 'integer', 'default 1', (spec, v) => {
    spec.gradientAccumulationSteps = v;
  }),
  flag('num-train-epochs', 'number', 'default 3', (spec, v) => {
    spec.numTrainEpochs = v;
  }),
  // transformers' default of -1 means "by epochs".
  flag('max-steps', 'integer', 'overrides the epochs', (spec, v) => {
    if (v > 0) spec.maxSteps = v;
  }),
  flag('per-device-eval-batch-size', 'integer', 'default 8', (spec, v) => {
    spec.perDeviceEvalBatchSize = v;
  }),
  flag('eval-strategy', 'text', 'steps, epoch or no (default: steps with --eval-steps, else epoch)', (spec, v) => {
    spec.evalStrategy = v;
  }),
  flag('eval-steps', 'integer', "evaluate every n steps (default: at each epoch's end)", (spec, v) => {
    spec.evalSteps = v;
  }),
  flag('load-best-model-at-end', 'boolean', 'keep the adapter of the best evaluation', (spec, v) => {
    spec.loadBestModelAtEnd = v;
  }),
  flag('metric-for-best-model', 'text', 'eval_loss or eval_token_loss (default: eval_loss)', (spec, v) => {
    spec.metricForBestModel = v;
  }),
  flag('early-stopping-patience', 'integer', 'evaluations without an improvement that end the job', (spec, v) => {
    spec.earlyStoppingPatience = v;
  }),
  flag('early-stopping-threshold', 'number', 'an improvement must be larger (default 0)', (spec, v) => {
    spec.earlyStoppingThreshold = v;
  }),
  flag(
    'save-strategy',
    'text',
    'when checkpoints are written: interval, steps, epoch or no (default: steps with --save-steps, else interval)',
    (spec, v) => {
      spec.saveStrategy = v;
    },
  ),
  flag('save-steps', 'integer', 'write a checkpoint every n steps', (spec, v) => {
    spec.saveSteps = v;
  }),
  flag('save-interval-seconds', 'integer', 'write a checkpoint every n seconds (default 60)', (spec, v) => {
    spec.saveIntervalSeconds = v;
  }),
  flag('save-total-limit', 'integer', 'checkpoints that are kept (default 2)', (spec, v) => {
    spec.saveTotalLimit = v;
  }),
  flag('seed', 'integer', "seed of the adapter's first weights, of dropout and of noise (default 42)", (spec, v) => {
    spec.seed = v;
  }),
  flag('data-seed', 'integer', 'seed of the data order (default: --seed)', (spec, v) => {
    spec.dataSeed = v;
  }),
  flag('lora-r', 'integer', 'rank (default 8)', (spec, v) => {
    lora(spec).r = v;
  }),
  flag('lora-alpha', 'number', 'default 16', (spec, v) => {
    lora(spec).loraAlpha = v;
  }),
  flag(
    'lora-dropout',
    'number',
    'share of the low-rank input dropped in training, in [0, 1) (default 0)',
    (spec, v) => {
      lora(spec).loraDropout = v;
    },
  ),
  flag(
    'target-modules',
    'modules',
    'module names, all-linear, or a regular expression of whole module paths (default: all-linear)',
    (spec, v) => {
      if (typeof v === 'string') lora(spec).targetPattern = v;
      else lora(spec).targetModules = v;
    },
  ),
  flag('exclude-modules', 'modules', 'modules that are left out: names or a regular expression', (spec, v) => {
    if (typeof v === 'string') lora(spec).excludePattern = v;
    else lora(spec).excludeModules = v;
  }),
  flag('layers-to-transform', 'layers', 'only these blocks, such as 0,4-7', (spec, v) => {
    lora(spec).layersToTransform = v;
  }),
  flag(
    'layers-pattern',
    'list',
    "what stands before a block's number in module paths (default: anything)",
    (spec, v) => {
      lora(spec).layersPattern = v;
    },
  ),
  flag('rank-pattern', 'numbers', 'other ranks by module name or regular expression: q_proj=16,…', (spec, v) => {
    lora(spec).rankPattern = v;
  }),
  flag('alpha-pattern', 'numbers', 'other values of --lora-alpha by module, as --rank-pattern', (spec, v) => {
    lora(spec).alphaPattern = v;
  }),
  flag('use-rslora', 'boolean', 'scale by alpha / sqrt(r)', (spec, v) => {
    lora(spec).useRslora = v;
  }),
];
