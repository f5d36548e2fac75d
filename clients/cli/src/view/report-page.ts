/** A training job as one page of HTML, which loads nothing and runs nothing. */
import {
  type TrainingEvaluation,
  type TrainingEvent,
  type TrainingJob,
  type TrainingPlan,
  TrainingSpec,
  type TrainingStep,
  type Warning,
} from '../../../typescript/src/index.ts';
import { formatBytes, formatCount, formatPacking, formatSeconds, stateName } from '../format.ts';
import { toCanonicalJson } from '../json.ts';
import { escaped, htmlPage } from './html.ts';
import { svgCurve } from './svg-curve.ts';
import { visible } from './visible.ts';

const STYLE = `
:root { color-scheme: light dark; --back: #fff; --text: #1f2328; --soft: #57606a; --edge: #d0d7de; --curve: #0969da; --dots: #bc4c00; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --back: #0d1117; --text: #e6edf3; --soft: #9198a1; --edge: #30363d; --curve: #58a6ff; --dots: #f0883e; --bad: #ff7b72; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--edge); padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; unicode-bidi: isolate; }
th { font-weight: 400; color: var(--soft); white-space: nowrap; } td { white-space: pre-wrap; }
svg { width: 100%; height: auto; }
.line { fill: none; stroke: var(--curve); stroke-width: 1.5; stroke-linejoin: round; } .dots { fill: var(--dots); }
.grid { stroke: var(--edge); stroke-width: 1; } .axis { fill: var(--soft); font: 11px system-ui, sans-serif; }
.failure { color: var(--bad); } p { margin: .25rem 0; }
`;

type Row = readonly [name: string, value: string];

/** Text of others: shown as it is, and as nothing else. */
const text = (value: string): string => escaped(visible(value));

const section = (title: string, content: string): string =>
  content === '' ? '' : `<section>\n<h2>${escaped(title)}</h2>\n${content}\n</section>\n`;

function record(rows: readonly Row[]): string {
  if (rows.length === 0) return '';
  return `<table>\n${rows.map(([name, value]) => `<tr><th>${text(name)}</th><td>${text(value)}</td></tr>`).join('\n')}\n</table>`;
}

function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const line = (cells: readonly string[], tag: 'th' | 'td'): string =>
    `<tr>${cells.map((cell) => `<${tag}>${text(cell)}</${tag}>`).join('')}</tr>`;
  return `<table>\n${[line(headings, 'th'), ...rows.map((row) => line(row, 'td'))].join('\n')}\n</table>`;
}

/** Settings by name, those in messages as `lora.r`; empty ones are left out. */
function settings(value: unknown, name = ''): Row[] {
  if (value === '' || (Array.isArray(value) && value.length === 0)) return [];
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    return [[name, typeof value === 'string' ? value : JSON.stringify(value)]];
  }
  return Object.entries(value).flatMap(([key, inner]) => settings(inner, name === '' ? key : `${name}.${key}`));
}

function summary(job: TrainingJob, steps: readonly TrainingStep[]): Row[] {
  const last = steps.at(-1);
  const rows: Row[] = [
    ['model', job.spec?.model ?? ''],
    ['data set', job.spec?.dataset ?? ''],
    ['created', job.createTime?.toISOString() ?? ''],
  ];
  if (job.startTime && job.endTime) {
    rows.push(['took', formatSeconds((job.endTime.getTime() - job.startTime.getTime()) / 1000)]);
  }
  if (last !== undefined) {
    const tokens = steps.reduce((sum, step) => sum + step.tokens, 0);
    const seconds = steps.reduce((sum, { tokens, tokensPerSecond }) => sum + tokens / tokensPerSecond, 0);
    rows.push(['steps', `${last.globalStep} of ${last.maxSteps}, ${last.epoch.toFixed(2)} epochs`]);
    if (last.skippedSteps > 0) rows.push(['skipped steps', String(last.skippedSteps)]);
    rows.push(['last loss', last.loss.toFixed(4)]);
    if (Number.isFinite(seconds)) {
      rows.push(['tokens', `${formatCount(tokens)}, ${formatCount(Math.round(tokens / seconds))} per second`]);
    }
    rows.push(['most memory allocated', formatBytes(last.peakAllocatedBytes)]);
  }
  if (job.adapter !== '') rows.push(['adapter', job.adapter]);
  return rows;
}

function dataRows(plan: TrainingPlan): Row[] {
  const { template, packing } = plan;
  const rows: Row[] = [
    ['examples', `${plan.examples}${plan.evalExamples > 0 ? `, and ${plan.evalExamples} held out` : ''}`],
    ['tokens', `${formatCount(plan.tokens)}, ${formatCount(plan.labelTokens)} of them learned`],
    ['template', template === undefined ? 'exact ids' : `${template.id} ${template.version} ${template.hash}`],
  ];
  if (packing !== undefined) rows.push(['packed', formatPacking(packing)]);
  const modules = plan.targetModules.join(', ');
  rows.push(['trainable parameters', `${formatCount(plan.trainableParameters)} in ${modules}`]);
  rows.push(["base model's hash", plan.baseModelHash]);
  return rows;
}

function memoryRows({ memory }: TrainingPlan): Row[] {
  if (memory === undefined) return [];
  const rows: [string, number | undefined][] = [
    ['in all', memory.totalBytes],
    ['base model', memory.weightBytes],
    ['adapter, gradients and moments', memory.adapterBytes],
    ['activations', memory.activationBytes],
    ['activations of evaluation', memory.evaluationBytes],
    ['in between', memory.scratchBytes],
    ['held already', memory.heldBytes],
    ['free', memory.freeBytes],
    ['left alone', memory.marginBytes],
    ["locked in the host's memory", memory.pinnedHostBytes],
  ];
  const known = rows.flatMap(([name, bytes]): Row[] => (bytes === undefined ? [] : [[name, formatBytes(bytes)]]));
  return [...known, ['layers recomputed', `${memory.recomputeLayers} of ${memory.layers}`]];
}

function evaluationTable(evaluations: readonly TrainingEvaluation[]): string {
  const rows = evaluations.map((one) => [
    String(one.globalStep),
    one.epoch.toFixed(2),
    one.loss.toFixed(4),
    one.trainerLoss.toFixed(4),
    String(one.examples),
    [...(one.best ? ['the best until then'] : []), ...(one.stops ? ['stopped the job'] : [])].join(', '),
  ]);
  return table(['step', 'epoch', 'loss per token', "mean of the batches' losses", 'examples', ''], rows);
}

/** The page. @param events The job's, in order, from the first one on; what is not there yet is left out. */
export function reportPage(job: TrainingJob, events: readonly TrainingEvent[]): string {
  const steps: TrainingStep[] = [];
  const evaluations: TrainingEvaluation[] = [];
  const warnings: Warning[] = [];
  let plan: TrainingPlan | null = null;
  for (const { event } of events) {
    if (event?.$case === 'step') steps.push(event.value);
    else if (event?.$case === 'evaluation') evaluations.push(event.value);
    else if (event?.$case === 'warning') warnings.push(event.value);
    else if (event?.$case === 'plan') plan = event.value;
  }
  const curve = (label: string, of: (step: TrainingStep) => number, held: readonly TrainingEvaluation[] = []) =>
    svgCurve(
      `${label} over steps`,
      steps.map((step) => ({ step: step.globalStep, value: of(step) })),
      held.map(({ globalStep, loss }) => ({ step: globalStep, value: loss })),
    );
  const { failure } = job;
  const why = failure === undefined ? '' : `<p class="failure">${text(`${failure.message} (${failure.reason})`)}</p>\n`;
  const lossTitle = evaluations.length > 0 ? 'Loss; dots: held-out loss per token' : 'Loss';
  const body = [
    `<h1>${text(job.name)}: ${stateName(job.state)}</h1>\n${why}${record(summary(job, steps))}\n`,
    section(
      'Warnings',
      table(
        ['reason', ''],
        warnings.map(({ reason, message }) => [reason, message]),
      ),
    ),
    section(
      lossTitle,
      curve('Loss', ({ loss }) => loss, evaluations),
    ),
    section('Evaluations', evaluationTable(evaluations)),
    section(
      'Learning rate',
      curve('Learning rate', ({ learningRate }) => learningRate),
    ),
    section(
      'Gradient norm before clipping',
      curve('Gradient norm', ({ gradNorm }) => gradNorm),
    ),
    section(
      'Tokens per second',
      curve('Tokens per second', ({ tokensPerSecond }) => tokensPerSecond),
    ),
    section('Data', plan === null ? '' : record(dataRows(plan))),
    section('Memory plan', plan === null ? '' : record(memoryRows(plan))),
    section('Settings', job.spec === undefined ? '' : record(settings(toCanonicalJson(TrainingSpec, job.spec)))),
  ];
  return htmlPage(visible(`${job.name}: ${stateName(job.state)}`), STYLE, body.join(''));
}
