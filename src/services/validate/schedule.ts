/** The schedule of the learning rate: transformers' names, and what each takes. */
import { z } from 'zod';
import type { LrSchedulerKwargs } from '../../engine/engine.ts';
import { finiteNumber, nameField, positiveNumber, wholeNumber } from './fields.ts';

const UINT32 = 2 ** 32 - 1;

const TAKES: Readonly<Record<string, readonly (keyof LrSchedulerKwargs)[]>> = {
  linear: [],
  cosine: ['numCycles'],
  cosine_with_restarts: ['numCycles'],
  cosine_with_min_lr: ['numCycles', 'minLr', 'minLrRate'],
  cosine_warmup_with_min_lr: ['numCycles', 'minLr', 'minLrRate', 'warmupLrRate'],
  polynomial: ['lrEnd', 'power'],
  constant: [],
  constant_with_warmup: [],
  inverse_sqrt: ['timescale'],
  warmup_stable_decay: ['numDecaySteps', 'numStableSteps', 'warmupType', 'decayType', 'minLrRatio', 'numCycles'],
};

/** lr_scheduler_type. */
export const schedulerType = nameField(Object.keys(TAKES));

const share = finiteNumber(0, 1).optional();
const slope = nameField(['linear', 'cosine', '1-sqrt']).optional();

/** lr_scheduler_kwargs. */
export const schedulerKwargs = z.object({
  numCycles: finiteNumber(0, 1e6).optional(),
  power: finiteNumber(0, 1e6).optional(),
  lrEnd: finiteNumber(0, 100).optional(),
  timescale: positiveNumber(1e12).optional(),
  minLr: finiteNumber(0, 100).optional(),
  minLrRate: share,
  warmupLrRate: share,
  numDecaySteps: wholeNumber(0, UINT32).optional(),
  numStableSteps: wholeNumber(0, UINT32).optional(),
  warmupType: slope,
  decayType: slope,
  minLrRatio: share,
});

interface Schedule {
  readonly learningRate: number;
  readonly lrSchedulerType: string;
  readonly lrSchedulerKwargs?: LrSchedulerKwargs | undefined;
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** Refuses what the schedule does not take, what it lacks, and rates that would rise. */
export function checkSchedule(
  { learningRate, lrSchedulerType: type, lrSchedulerKwargs: kwargs = {} }: Schedule,
  context: Pick<z.RefinementCtx, 'addIssue'>,
): void {
  const takes = TAKES[type] ?? [];
  const refuse = (name: keyof LrSchedulerKwargs, message: string): void =>
    context.addIssue({ code: 'custom', path: ['lrSchedulerKwargs', name], message });
  for (const name of Object.keys(kwargs) as (keyof LrSchedulerKwargs)[]) {
    if (kwargs[name] === undefined || takes.includes(name)) continue;
    const names = takes.length === 0 ? 'nothing' : takes.map(snakeCase).join(', ');
    refuse(name, `expected ${names} with lr_scheduler_type ${type}`);
  }
  const { minLr, minLrRate, numDecaySteps } = kwargs;
  if (type === 'warmup_stable_decay' && numDecaySteps === undefined) {
    refuse('numDecaySteps', `expected a whole number, which ${type} needs; found nothing`);
  }
  if (takes.includes('minLr') && (minLr === undefined) === (minLrRate === undefined)) {
    const found = minLr === undefined ? 'none' : 'both';
    refuse('minLr', `expected one of min_lr and min_lr_rate; found ${found}`);
  }
  const lowest = type === 'polynomial' ? (['lrEnd', kwargs.lrEnd ?? 1e-7] as const) : (['minLr', minLr] as const);
  if (takes.includes(lowest[0]) && lowest[1] !== undefined && lowest[1] >= learningRate) {
    refuse(lowest[0], `expected less than learning_rate, ${learningRate}; found ${lowest[1]}`);
  }
}
