/** `--lr-scheduler-kwargs`: transformers' names to the contract's. */
import { nearestName } from '../../../src/config/nearest.ts';
import type { DeepPartial, LrSchedulerKwargs } from '../../typescript/src/index.ts';
import { CliError } from './failure.ts';

const TEXTS = ['warmup_type', 'decay_type'];
const NUMBERS = [
  'num_cycles',
  'power',
  'lr_end',
  'timescale',
  'min_lr',
  'min_lr_rate',
  'warmup_lr_rate',
  'num_decay_steps',
  'num_stable_steps',
  'min_lr_ratio',
];

/** Throws CliError for an unknown name, and for a value that is no number where one is due. */
export function schedulerKwargs(found: Readonly<Record<string, number | string>>): DeepPartial<LrSchedulerKwargs> {
  const entries = Object.entries(found).map(([given, value]) => {
    const name = given.replaceAll('-', '_');
    const isText = TEXTS.includes(name);
    if (!isText && !NUMBERS.includes(name)) {
      const nearest = nearestName(name, [...NUMBERS, ...TEXTS]);
      const meant = nearest === null ? '' : `; did you mean ${nearest}?`;
      throw new CliError(`--lr-scheduler-kwargs: ${given} is none of ${[...NUMBERS, ...TEXTS].join(', ')}${meant}`);
    }
    if (!isText && typeof value !== 'number') {
      throw new CliError(`--lr-scheduler-kwargs: expected a number for ${given}, found ${JSON.stringify(value)}`);
    }
    const camelCase = name.replace(/_[a-z]/g, (part) => part.charAt(1).toUpperCase());
    return [camelCase, isText ? String(value) : value];
  });
  return Object.fromEntries(entries);
}
