/** What a job's log holds from before it was taken up, for a run that must not tell anything twice. */
import type { EvaluationResult, TrainingStep } from '../engine/engine.ts';
import type { TrainingEvent, TrainingJob } from '../gen/luthier/v1/training_service.ts';
import type { EventLog } from './job-store.ts';

type Logged = Pick<TrainingJob, 'name' | 'lastSequence'>;

/** Its events as they were when `job` was read. */
export async function* eventsOf(
  log: Pick<EventLog, 'watch'>,
  { name, lastSequence }: Logged,
  signal: AbortSignal,
): AsyncGenerator<NonNullable<TrainingEvent['event']>, void, undefined> {
  for await (const { sequence, event } of log.watch(name, 0, signal)) {
    if (event !== undefined) yield event;
    // What comes from now on is this run's own.
    if (sequence >= lastSequence) return;
  }
}

/** What is told once in a job's life. */
export interface Announced {
  readonly plan: boolean;
  /** `reason: message`. */
  readonly warnings: ReadonlySet<string>;
}

/** @param job As it was when it was taken up. */
export async function readAnnounced(log: EventLog, job: Logged, signal: AbortSignal): Promise<Announced> {
  const warnings = new Set<string>();
  let plan = false;
  for await (const event of eventsOf(log, job, signal)) {
    if (event.$case === 'plan') plan = true;
    if (event.$case === 'warning') warnings.add(`${event.value.reason}: ${event.value.message}`);
  }
  return { plan, warnings };
}

type StepNumbers = Pick<TrainingStep, 'loss' | 'gradNorm' | 'learningRate'>;
type EvaluationNumbers = Pick<EvaluationResult, 'loss' | 'trainerLoss'>;

/** Bit for bit, but for the sign of zero, which events do not carry; every NaN is one. */
const isSame = (one: unknown, other: unknown): boolean => one === other || (Number.isNaN(one) && Number.isNaN(other));

/** The first number that is not the same; null: all are. */
function firstDifference<Numbers extends object>(
  logged: Numbers,
  computed: Numbers,
  names: Readonly<Record<keyof Numbers, string>>,
): string | null {
  for (const key of Object.keys(names) as (keyof Numbers)[]) {
    if (!isSame(logged[key], computed[key])) {
      return `${names[key]} ${logged[key]} in its events, ${computed[key]} now`;
    }
  }
  return null;
}

const STEP_NAMES = { loss: 'loss', gradNorm: 'grad_norm', learningRate: 'learning_rate' } as const;
const EVALUATION_NAMES = { loss: 'loss', trainerLoss: 'trainer_loss' } as const;

/** What comparing says of a result: `new`: the log has none; `same`; or what differs, for people. */
export type Comparison = 'new' | 'same' | { readonly difference: string };

/** Steps and evaluations that the log has and the run computes again. Each is compared once. */
export class LoggedResults {
  readonly #steps = new Map<number, StepNumbers>();
  readonly #evaluations = new Map<number, EvaluationNumbers[]>();
  /** The best evaluation's step, of those that are not computed again; 0: none. */
  readonly bestStep: number;

  private constructor(steps: readonly TrainingStep[], evaluations: readonly EvaluationResult[], bestStep: number) {
    for (const { globalStep, loss, gradNorm, learningRate } of steps) {
      this.#steps.set(globalStep, { loss, gradNorm, learningRate });
    }
    for (const { globalStep, loss, trainerLoss } of evaluations) {
      const others = this.#evaluations.get(globalStep) ?? [];
      this.#evaluations.set(globalStep, [...others, { loss, trainerLoss }]);
    }
    this.bestStep = bestStep;
  }

  /**
   * @param job As it was when it was taken up.
   * @param from Steps that the run does not compute again; null: it runs from the start.
   */
  static async read(log: EventLog, job: Logged, from: number | null, signal: AbortSignal): Promise<LoggedResults> {
    const [steps, evaluations]: [TrainingStep[], EvaluationResult[]] = [[], []];
    let bestStep = 0;
    for await (const event of eventsOf(log, job, signal)) {
      if (event.$case === 'step' && event.value.globalStep > (from ?? 0)) steps.push(event.value);
      if (event.$case !== 'evaluation') continue;
      // A run that goes on may be in the middle of the evaluation after its last step.
      if (from === null || event.value.globalStep >= from) evaluations.push(event.value);
      if (from !== null && event.value.globalStep <= from && event.value.best) bestStep = event.value.globalStep;
    }
    return new LoggedResults(steps, evaluations, bestStep);
  }

  step(computed: TrainingStep): Comparison {
    const logged = this.#steps.get(computed.globalStep);
    if (logged === undefined) return 'new';
    this.#steps.delete(computed.globalStep);
    const found = firstDifference<StepNumbers>(logged, computed, STEP_NAMES);
    return found === null ? 'same' : { difference: `step ${computed.globalStep}: ${found}` };
  }

  evaluation(computed: EvaluationResult): Comparison {
    const logged = this.#evaluations.get(computed.globalStep)?.shift();
    if (logged === undefined) return 'new';
    const found = firstDifference<EvaluationNumbers>(logged, computed, EVALUATION_NAMES);
    return found === null ? 'same' : { difference: `evaluation after step ${computed.globalStep}: ${found}` };
  }
}
