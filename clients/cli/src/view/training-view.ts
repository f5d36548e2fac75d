/** A training job's events for people: a live picture on a terminal, plain lines elsewhere. */
import {
  type JobResumed,
  JobState,
  type StateChange,
  type TrainingEvent,
  type TrainingPlan,
  type TrainingStep,
} from '../../../typescript/src/index.ts';
import { checkpointText, formatBytes, formatCount, formatPacking, formatSeconds, stateName } from '../format.ts';
import { type Io, type Output, paint } from '../io.ts';
import { progressBar } from './bar.ts';
import { lossCurve } from './curve.ts';

const BAR_WIDTH = 30;
const CURVE_HEIGHT = 4;
/** Columns of a curve; wider ones only get noisier. */
const CURVE_WIDTH = 72;
/** Milliseconds between two pictures: more often is not seen. */
const FRAME_MS = 80;

const number = (value: number): string =>
  value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(2) : value.toPrecision(4);

function stepLine(step: TrainingStep): string {
  const parts = [
    `step ${step.globalStep}/${step.maxSteps}`,
    `epoch ${step.epoch.toFixed(2)}`,
    `loss ${step.loss.toFixed(4)}`,
    `grad_norm ${number(step.gradNorm)}`,
    `lr ${number(step.learningRate)}`,
    `${Math.round(step.tokensPerSecond)} tok/s`,
    `ETA ${formatSeconds(step.etaSeconds)}`,
    ...(step.skipped ? ['skipped: loss or gradients are no finite numbers'] : []),
  ];
  return parts.join('  ');
}

function planLine(plan: TrainingPlan): string {
  const held = plan.evalExamples > 0 ? `, ${plan.evalExamples} held out` : '';
  const { memory, packing } = plan;
  const packed = packing === undefined ? '' : `, packed into ${formatPacking(packing)}`;
  const planned =
    memory === undefined
      ? ''
      : `; ${formatBytes(memory.totalBytes)} planned, ${memory.recomputeLayers} of ${memory.layers} layers recomputed`;
  return (
    `${plan.examples} examples${held}${packed}, ${formatCount(plan.labelTokens)} of ${formatCount(plan.tokens)} tokens learned, ` +
    `${plan.maxSteps} steps, ${formatCount(plan.trainableParameters)} trainable parameters in ${plan.targetModules.join(', ')}${planned}`
  );
}

function stateLine(stream: Output, job: string, { to, failure }: StateChange): string {
  const style = to === JobState.JOB_STATE_FAILED ? 'red' : to === JobState.JOB_STATE_SUCCEEDED ? 'green' : 'cyan';
  const why = failure === undefined ? '' : `: ${failure.message} (${failure.reason})`;
  const how = to === JobState.JOB_STATE_PAUSED ? `; it goes on with: luthier jobs resume ${job}` : '';
  return `${paint(stream, style, stateName(to))}  ${job}${why}${how}`;
}

function resumedLine({ checkpoint, differences }: JobResumed): string {
  const where =
    checkpoint === undefined ? 'from the start: there is no checkpoint' : `from step ${checkpoint.globalStep}`;
  const changed = differences.length === 0 ? '' : `; the last digits may differ: ${differences.join('; ')}`;
  return `goes on ${where}${changed}`;
}

/** The line of every event that is no step; null for kinds this version does not know. */
function describeEvent(stream: Output, { job, event }: TrainingEvent): string | null {
  switch (event?.$case) {
    case 'stateChange':
      return stateLine(stream, job, event.value);
    case 'plan':
      return planLine(event.value);
    case 'evaluation': {
      const { loss, globalStep, examples, best, stops } = event.value;
      const verdict = `${best ? ', the best so far' : ''}${stops ? '; stopping early' : ''}`;
      return `held-out loss ${loss.toFixed(4)} at step ${globalStep}, ${examples} examples${verdict}`;
    }
    case 'adapterSaved':
      return `saved ${event.value.adapter}, ${formatBytes(event.value.sizeBytes)}`;
    case 'checkpointSaved': {
      const { checkpoint, seconds } = event.value;
      return checkpoint === undefined
        ? null
        : `checkpoint at ${checkpointText(checkpoint)}, written in ${seconds.toFixed(2)} s`;
    }
    case 'jobResumed':
      return resumedLine(event.value);
    case 'warning':
      return `${paint(stream, 'yellow', 'warning')}  ${event.value.message} (${event.value.reason})`;
    default:
      return null;
  }
}

/** Draws one job. Call `show` with every event and `close` when no more will come. */
export class TrainingView {
  readonly #io: Io;
  readonly #live: boolean;
  readonly #losses: number[] = [];
  #step: TrainingStep | null = null;
  #drawn = 0;
  #lastFrame = 0;

  constructor(io: Io) {
    this.#io = io;
    this.#live = io.stdout.isTTY === true && io.env.TERM !== 'dumb';
  }

  show(event: TrainingEvent): void {
    if (event.event?.$case !== 'step') {
      const line = describeEvent(this.#io.stdout, event);
      if (line !== null) this.#line(line);
      return;
    }
    const step = event.event.value;
    this.#step = step;
    this.#losses.push(step.loss);
    if (!this.#live) this.#line(stepLine(step));
    else if (Date.now() - this.#lastFrame >= FRAME_MS || step.globalStep === step.maxSteps) this.#draw();
  }

  /** A line about the stream rather than the job. */
  note(text: string): void {
    this.#erase();
    this.#io.stderr.write(`${text}\n`);
    if (this.#live) this.#draw();
  }

  /** Leaves the last picture on the screen; notes may still follow below it. */
  close(): void {
    if (this.#live) this.#draw();
    this.#step = null;
    this.#drawn = 0;
  }

  #line(text: string): void {
    this.#erase();
    this.#io.stdout.write(`${text}\n`);
    if (this.#live) this.#draw();
  }

  #erase(): void {
    if (this.#drawn > 0) this.#io.stdout.write(`\x1b[${this.#drawn}A\x1b[J`);
    this.#drawn = 0;
  }

  #draw(): void {
    const step = this.#step;
    if (step === null) return;
    const { stdout } = this.#io;
    const share = step.maxSteps === 0 ? 0 : step.globalStep / step.maxSteps;
    const columns = stdout.columns ?? 80;
    const bar = paint(stdout, 'cyan', progressBar(share, Math.min(BAR_WIDTH, columns - 12)));
    const details = [
      `step ${step.globalStep}/${step.maxSteps}`,
      `loss ${step.loss.toFixed(4)}`,
      `${Math.round(step.tokensPerSecond)} tok/s`,
      formatBytes(step.allocatedBytes),
      `ETA ${formatSeconds(step.etaSeconds)}`,
    ].join('  ');
    // A line that wraps would be counted as one and leave its rest on the screen.
    const lines = [
      ...lossCurve(this.#losses, Math.min(CURVE_WIDTH, columns - 1), CURVE_HEIGHT).map((line) =>
        paint(stdout, 'green', line),
      ),
      `${bar} ${String(Math.round(share * 100)).padStart(3)} %`,
      details.slice(0, columns - 1),
    ];
    this.#erase();
    stdout.write(`${lines.join('\n')}\n`);
    this.#drawn = lines.length;
    this.#lastFrame = Date.now();
  }
}
