/** From flags and a configuration file to what `train` does. */
import { CliError, notBuiltYet } from './failure.ts';
import { FILE_FLAGS_HELP } from './file-options.ts';
import { TRAIN_OPTIONS_NOT_BUILT } from './not-built.ts';
import { type SpecDraft, TRAINING_FLAGS } from './training-flags.ts';

/** What `train` does besides the job itself. */
export const RUN_FLAGS = {
  data: 'examples: a JSONL, JSON, CSV or Parquet file, or datasets/NAME of stored ones',
  'eval-data': 'held-out examples: a file, or datasets/NAME',
  ...FILE_FLAGS_HELP,
  export: 'also write a PEFT folder here, on the server',
} as const;

/** The settings of one run. */
export interface TrainSettings {
  readonly spec: SpecDraft;
  readonly run: Readonly<Partial<Record<keyof typeof RUN_FLAGS, string>>>;
}

/** Flags win over the file. Throws CliError for unknown names, and by name for those not built yet. */
export function trainSettings(
  flags: ReadonlyMap<string, unknown>,
  file: ReadonlyMap<string, unknown> = new Map(),
): TrainSettings {
  const merged = new Map([...positive(file), ...positive(flags)]);
  const spec: SpecDraft = {};
  for (const { name, apply } of TRAINING_FLAGS) {
    const value = merged.get(name);
    merged.delete(name);
    if (value !== undefined && value !== null) apply(spec, value);
  }
  const run: Record<string, string> = {};
  for (const name of Object.keys(RUN_FLAGS)) {
    const value = merged.get(name);
    merged.delete(name);
    if (value === undefined || value === null) continue;
    if (typeof value !== 'string') throw new CliError(`--${name}: expected text, found ${JSON.stringify(value)}`);
    run[name] = value;
  }
  for (const name of merged.keys()) {
    const instead = TRAIN_OPTIONS_NOT_BUILT[name];
    if (instead !== undefined) throw notBuiltYet(`--${name}`, instead);
    throw new CliError(`--${name} is no option of train; \`luthier train --help\` lists them`);
  }
  return { spec, run };
}

/** `no-shuffle: true` as `shuffle: false`. */
function positive(entries: ReadonlyMap<string, unknown>): [string, unknown][] {
  return [...entries].map(([name, value]) =>
    name === 'no-shuffle' ? ['shuffle', value !== true && value !== 'true'] : [name, value],
  );
}
