/** Training runs of the fake engine: the events of a real run, with numbers that follow from the settings alone. */
import { setImmediate } from 'node:timers/promises';
import type {
  AdapterMetadata,
  EvaluationResult,
  ModelMetadata,
  ResumedRun,
  SavedAdapter,
  SavedCheckpoint,
  TokenExamples,
  TrainingConfig,
  TrainingEstimate,
  TrainingEvent,
  TrainingRun,
  TrainingStep,
} from './engine.ts';
import { EngineError } from './errors.ts';
import { writeFakeAdapter } from './fake-adapter.ts';
import { type RunFacts, writeFakeCheckpoint } from './fake-checkpoint.ts';
import { labelTokensOf, sequenceEnds, stepsPerEpoch } from './fake-estimate.ts';
import { EventQueue } from './fake-events.ts';

/** Awaited before a checkpoint is written; what it throws fails the writing. */
export type BeforeSave = (globalStep: number) => void | Promise<void>;

/** What a step's loss gets beside the usual one. */
export type LossOffset = (globalStep: number) => number;

/** Awaited before each step, which counts from 1: what it waits for holds the run, what it throws fails it. */
export type BeforeStep = (globalStep: number) => void | Promise<void>;

interface FakeTrainingRequest {
  readonly model: ModelMetadata;
  readonly config: TrainingConfig;
  readonly estimate: TrainingEstimate;
  readonly train: TokenExamples;
  readonly evaluation: TokenExamples | null;
  readonly beforeStep: BeforeStep;
  readonly beforeSave: BeforeSave;
  readonly lossOffset: LossOffset;
  /** As `runFacts`. */
  readonly facts: RunFacts;
  /** What its checkpoints say of where they were taken. */
  readonly device: string;
  /** Null: from the start. */
  readonly resumed: ResumedRun | null;
}

const countOf = (examples: TokenExamples): number => Math.max(0, examples.offsets.length - 1);

/** Refuses what the engine refuses. */
export function checkExamples(model: ModelMetadata, examples: TokenExamples, what: string): void {
  if (countOf(examples) === 0) throw new EngineError('INVALID_ARGUMENT', `there are no ${what} examples`);
  for (let example = 0; example < countOf(examples); example++) {
    const ids = examples.inputIds.subarray(examples.offsets[example], examples.offsets[example + 1]);
    if (ids.some((id) => id >= model.vocabSize)) {
      throw new EngineError('INVALID_ARGUMENT', `${what} example ${example}: an id outside the vocabulary`);
    }
    if (ids.length > model.maxPositionEmbeddings) {
      throw new EngineError('SEQUENCE_TOO_LONG', `${what} example ${example} has ${ids.length} tokens; shorten it`);
    }
    if (labelTokensOf(examples, example) === 0) {
      throw new EngineError('NO_TRAINABLE_TOKENS', `${what} example ${example} has no trainable token`);
    }
  }
}

export class FakeTrainingRun implements TrainingRun {
  readonly #request: FakeTrainingRequest;
  readonly #queue = new EventQueue<TrainingEvent>();
  readonly #stopped = Promise.withResolvers<void>();
  #cancelled = false;
  #paused = false;
  #closed = false;
  #checkpointWanted = false;
  #stops = false;
  /** Steps done when the latest checkpoint was taken; null: none was. */
  #taken: number | null = null;
  #stepsDone: number;

  constructor(request: FakeTrainingRequest) {
    this.#request = request;
    this.#stepsDone = request.resumed?.globalStep ?? 0;
    void this.#run();
  }

  events(): AsyncIterable<TrainingEvent> {
    return this.#queue.read();
  }

  cancel(): void {
    this.#cancelled = true;
    this.#stopped.resolve();
  }

  requestCheckpoint(): void {
    this.#checkpointWanted = true;
  }

  pause(): void {
    this.#paused = true;
    this.#stopped.resolve();
  }

  stopAfterStep(): void {
    this.#stops = true;
  }

  async saveCheckpoint(folder: string): Promise<SavedCheckpoint> {
    const globalStep = this.#taken;
    if (globalStep === null) {
      throw new EngineError('INVALID_ARGUMENT', 'no checkpoint was taken; ask for one and wait for its event');
    }
    const { facts, device, beforeSave } = this.#request;
    await beforeSave(globalStep);
    return writeFakeCheckpoint(folder, globalStep, facts, device);
  }

  async saveAdapter(folder: string, metadata: AdapterMetadata): Promise<SavedAdapter> {
    if (this.#closed) throw new EngineError('CLOSED', 'the run was closed; nothing can be asked of it');
    if (!this.#queue.ended) {
      throw new EngineError('INVALID_ARGUMENT', 'the run is still going; wait for its end or cancel it');
    }
    const { model, config, estimate } = this.#request;
    const { targetModules } = estimate;
    return writeFakeAdapter(folder, model, { ...config.lora, targetModules }, this.#stepsDone, metadata);
  }

  close(): void {
    this.#closed = true;
    this.fail(new EngineError('CLOSED', 'the run was closed; nothing can be asked of it'));
  }

  /** Ends the run with an error, where it has not ended yet. */
  fail(error: EngineError): void {
    this.#queue.end(error);
    this.cancel();
  }

  get #stepsPerEpoch(): number {
    return stepsPerEpoch(this.#request.config, this.#request.train);
  }

  get #maxSteps(): number {
    return this.#request.estimate.maxSteps;
  }

  async #run(): Promise<void> {
    try {
      await this.#train();
      this.#queue.end(null);
    } catch (error) {
      this.#queue.fail(error);
    }
  }

  #checkpoint(kind: 'checkpoint' | 'paused'): void {
    this.#taken = this.#stepsDone;
    this.#queue.push({ kind, globalStep: this.#stepsDone });
  }

  async #train(): Promise<void> {
    const { config, estimate, evaluation, beforeStep, resumed } = this.#request;
    this.#queue.push({ kind: 'started', resumed, ...estimate });
    if (evaluation !== null && resumed === null) this.#evaluate(evaluation);
    for (let globalStep = this.#stepsDone + 1; globalStep <= this.#maxSteps; globalStep++) {
      await Promise.race([this.#stopped.promise, setImmediate().then(() => beforeStep(globalStep))]);
      if (this.#cancelled) {
        this.#queue.push({ kind: 'cancelled' });
        return;
      }
      if (this.#paused) return this.#checkpoint('paused');
      this.#queue.push({ kind: 'step', step: this.#step(globalStep) });
      this.#stepsDone = globalStep;
      const every = config.evalSteps ?? this.#stepsPerEpoch;
      const isLast = globalStep === this.#maxSteps || this.#stops;
      if (evaluation !== null && (globalStep % every === 0 || isLast)) this.#evaluate(evaluation);
      if (isLast) break;
      if (this.#checkpointWanted || globalStep % (config.saveSteps ?? Number.POSITIVE_INFINITY) === 0) {
        this.#checkpointWanted = false;
        this.#checkpoint('checkpoint');
      }
    }
    this.#queue.push({ kind: 'finished' });
  }

  /** Falls from 4 towards 1. */
  #loss(step: number): number {
    return 1 + 3 / (1 + step / 4);
  }

  #step(globalStep: number): TrainingStep {
    const { config, train } = this.#request;
    const size = config.perDeviceTrainBatchSize * config.gradientAccumulationSteps;
    const ends = sequenceEnds(config, train);
    const firstSequence = ((globalStep - 1) % this.#stepsPerEpoch) * size;
    const first = ends[firstSequence - 1] ?? 0;
    const last = ends[Math.min(firstSequence + size, ends.length) - 1] ?? first;
    const examples = Array.from({ length: last - first }, (_, index) => first + index);
    const tokens = (train.offsets[last] ?? 0) - (train.offsets[first] ?? 0);
    return {
      globalStep,
      maxSteps: this.#maxSteps,
      epoch: globalStep / this.#stepsPerEpoch,
      loss: this.#loss(globalStep) + this.#request.lossOffset(globalStep),
      gradNorm: 1 / globalStep,
      learningRate: config.learningRate * (1 - (globalStep - 1) / this.#maxSteps),
      tokens,
      labelTokens: examples.reduce((sum, example) => sum + labelTokensOf(train, example), 0),
      tokensPerSecond: 1000,
      allocatedBytes: 1 << 20,
      peakAllocatedBytes: 2 << 20,
      etaSeconds: (this.#maxSteps - globalStep) * (tokens / 1000),
      skipped: false,
      skippedSteps: 0,
      devices: [{ tokensPerSecond: 1000, allocatedBytes: 1 << 20, peakAllocatedBytes: 2 << 20, communicationShare: 0 }],
    };
  }

  #evaluate(evaluation: TokenExamples): void {
    const examples = countOf(evaluation);
    const labels = Array.from({ length: examples }, (_, example) => labelTokensOf(evaluation, example));
    const result: EvaluationResult = {
      globalStep: this.#stepsDone,
      epoch: this.#stepsDone / this.#stepsPerEpoch,
      loss: this.#loss(this.#stepsDone) + 0.5,
      trainerLoss: this.#loss(this.#stepsDone) + 0.5,
      labelTokens: labels.reduce((sum, count) => sum + count, 0),
      examples,
      best: this.#stepsDone > 0,
      stops: false,
    };
    this.#queue.push({ kind: 'evaluation', evaluation: result });
  }
}
