/** The flags that say how tokens are drawn. */
import type { Command } from 'commander';
import type { DeepPartial, Sampling } from '../../typescript/src/index.ts';
import { numberOption } from './connection.ts';

export interface SamplingOptions {
  readonly maxNewTokens?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: readonly string[];
  readonly seed?: number;
  readonly ignoreEos?: boolean;
}

/** Adds the options of sampling. Ranges are the server's to check. */
export function withSampling(command: Command): Command {
  return command
    .option('--max-new-tokens <n>', 'default 256', numberOption(1, true))
    .option('--temperature <t>', '0: greedy (default)', numberOption(0))
    .option('--top-k <k>', '0: off (default)', numberOption(0, true))
    .option('--top-p <p>', '1: off (default)', numberOption(0))
    .option('--min-p <p>', '0: off (default)', numberOption(0))
    .option('--repetition-penalty <x>', '1: off (default)', numberOption(0))
    .option('--stop <text...>', 'text that ends the answer; may be repeated')
    .option('--seed <n>', 'default: drawn by the server', numberOption(0, true))
    .option('--ignore-eos', "go on past the model's end tokens");
}

/** What the options say, as the contract has it. */
export function samplingOf(options: SamplingOptions): DeepPartial<Sampling> {
  const {
    maxNewTokens,
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    seed,
    stop = [],
    ignoreEos = false,
  } = options;
  const set = { maxNewTokens, temperature, topK, topP, minP, repetitionPenalty, seed };
  const given = Object.fromEntries(Object.entries(set).filter(([, value]) => value !== undefined));
  return { ...given, stop: [...stop], ignoreEos };
}
