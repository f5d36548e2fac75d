/** What the fake engine plans: every part of the memory from a formula of its own, and the settings that would fit. */
import type {
  MemoryEstimate,
  MemorySuggestion,
  ModelMetadata,
  TokenExamples,
  TrainingConfig,
  TrainingEstimate,
} from './engine.ts';

/** Bytes of a number. */
const NUMBER = 4;
const IGNORED_LABEL = -100;

interface FakePlanRequest {
  readonly model: ModelMetadata;
  readonly loaded: boolean;
  readonly config: TrainingConfig;
  readonly targetModules: readonly string[];
  readonly train: TokenExamples;
  readonly evaluation: TokenExamples | null;
  /** Null: unknown. */
  readonly freeBytes: number | null;
}

const countOf = ({ offsets }: TokenExamples): number => Math.max(0, offsets.length - 1);

const longestOf = ({ offsets }: TokenExamples): number =>
  offsets.reduce((longest, end, index) => Math.max(longest, end - (offsets[index - 1] ?? 0)), 0);

const lengthOf = ({ offsets }: TokenExamples, example: number): number =>
  (offsets[example + 1] ?? 0) - (offsets[example] ?? 0);

/** Where each sequence ends, in examples: a packed one with the example after which the next does not fit. */
export function sequenceEnds({ packingLength }: TrainingConfig, train: TokenExamples): readonly number[] {
  const ends: number[] = [];
  let tokens = 0;
  for (let example = 0; example < countOf(train); example++) {
    tokens += lengthOf(train, example);
    const next = lengthOf(train, example + 1);
    if (packingLength !== null && example + 1 < countOf(train) && tokens + next <= packingLength) continue;
    ends.push(example + 1);
    tokens = 0;
  }
  return ends;
}

/** Labels that are learned in an example: the first position has nothing before it to be predicted from. */
export function labelTokensOf({ labels, offsets }: TokenExamples, example: number): number {
  const learned = labels.subarray((offsets[example] ?? 0) + 1, offsets[example + 1]);
  return learned.reduce((sum, label) => sum + (label === IGNORED_LABEL ? 0 : 1), 0);
}

/** Optimizer steps of an epoch. */
export function stepsPerEpoch(config: TrainingConfig, train: TokenExamples): number {
  const batches = Math.ceil(sequenceEnds(config, train).length / config.perDeviceTrainBatchSize);
  return Math.ceil(batches / config.gradientAccumulationSteps);
}

type Priced = Pick<MemoryEstimate, 'totalBytes' | 'heldBytes' | 'recomputeLayers'> & Partial<MemoryEstimate>;

function priced({ model, loaded, config, targetModules, train }: FakePlanRequest, recomputeLayers: number) {
  const kept = model.numHiddenLayers - recomputeLayers + Math.min(recomputeLayers, 1);
  const rows = config.perDeviceTrainBatchSize * (config.packingLength ?? longestOf(train));
  const trainable = model.numHiddenLayers * targetModules.length * 2 * model.hiddenSize * config.lora.r;
  const weightBytes = model.storedBytes;
  const adapterBytes = 4 * NUMBER * trainable;
  const activationBytes =
    NUMBER * rows * (model.hiddenSize * (model.numHiddenLayers + 1) + model.intermediateSize * kept);
  const scratchBytes = NUMBER * rows * model.intermediateSize;
  return {
    totalBytes: weightBytes + adapterBytes + activationBytes + scratchBytes,
    weightBytes,
    adapterBytes,
    activationBytes,
    evaluationBytes: 0,
    scratchBytes,
    pinnedHostBytes: 0,
    heldBytes: loaded ? weightBytes : 0,
    recomputeLayers,
    offloadActivations: config.offloadActivations,
  } satisfies Priced;
}

/** The plan with the fewest recomputed layers that fits, as the settings allow; else the one that needs least. */
function chosen(request: FakePlanRequest) {
  const { model, config, freeBytes } = request;
  const asked = config.recomputeLayers;
  const most = model.numHiddenLayers;
  const exactly = asked === 'all' ? most : asked === 'auto' ? null : Math.min(asked, most);
  const counts = exactly === null ? Array.from({ length: most + 1 }, (_, count) => count) : [exactly];
  const fits = ({ totalBytes, heldBytes }: Priced): boolean =>
    freeBytes === null || totalBytes - heldBytes <= freeBytes;
  const plans = counts.map((count) => priced(request, count));
  const plan = plans.find(fits) ?? plans.at(-1) ?? priced(request, most);
  return { plan, fits: fits(plan) };
}

const NOTHING: Omit<MemorySuggestion, 'description' | 'totalBytes'> = {
  recomputeLayers: null,
  offloadActivations: false,
  perDeviceTrainBatchSize: null,
  gradientAccumulationSteps: null,
  perDeviceEvalBatchSize: null,
  loadIn4bit: false,
  maxSeqLength: null,
};

function suggestionsFor(request: FakePlanRequest): MemorySuggestion[] {
  const { config } = request;
  const suggestions: MemorySuggestion[] = [];
  const auto = chosen({ ...request, config: { ...config, recomputeLayers: 'auto' } });
  if (auto.fits) {
    const { recomputeLayers, totalBytes } = auto.plan;
    suggestions.push({ ...NOTHING, description: `recompute_layers ${recomputeLayers}`, totalBytes, recomputeLayers });
  }
  const single = { ...config, perDeviceTrainBatchSize: 1 };
  const small = chosen({ ...request, config: single });
  if (small.fits && config.perDeviceTrainBatchSize > 1) {
    suggestions.push({
      ...NOTHING,
      description: 'per_device_train_batch_size 1',
      totalBytes: small.plan.totalBytes,
      perDeviceTrainBatchSize: 1,
      gradientAccumulationSteps: config.gradientAccumulationSteps * config.perDeviceTrainBatchSize,
    });
  }
  return suggestions;
}

/** The plan of a run. */
export function fakeEstimate(request: FakePlanRequest): TrainingEstimate {
  const { model, config, targetModules, train, evaluation, freeBytes } = request;
  const { packingLength } = config;
  const sequences = sequenceEnds(config, train).length;
  const tokens = train.inputIds.length;
  const { plan, fits } = chosen(request);
  const perEpoch = stepsPerEpoch(config, train);
  const maxSteps = config.maxSteps ?? Math.ceil(perEpoch * config.numTrainEpochs);
  const suggestions = fits ? [] : suggestionsFor(request);
  const advice = suggestions.map(({ description }) => description).join('; or ');
  const refusal = `the run needs ${plan.totalBytes} bytes, ${freeBytes} are free; what would fit: ${advice}`;
  return {
    examples: countOf(train),
    tokens,
    labelTokens: Array.from({ length: countOf(train) }, (_, example) => labelTokensOf(train, example)).reduce(
      (sum, count) => sum + count,
      0,
    ),
    evalExamples: evaluation === null ? 0 : countOf(evaluation),
    packing: packingLength === null ? null : { sequences, utilization: tokens / (sequences * packingLength) },
    maxSteps,
    runTokens: Math.round((tokens * maxSteps) / perEpoch),
    trainableParameters: model.numHiddenLayers * targetModules.length * 2 * model.hiddenSize * config.lora.r,
    targetModules,
    memory: {
      ...plan,
      freeBytes,
      marginBytes: 0,
      layers: model.numHiddenLayers,
      refusal: fits ? null : refusal,
      suggestions,
    },
  };
}
