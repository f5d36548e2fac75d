/** Stored data sets to the examples that a training run reads. */
import type { TokenExamples } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import type { TemplateIdentity } from '../prompt/renderer.ts';
import type { EncoderKind } from '../tokenizer/tokenizer.ts';
import { countOf, ExampleCollector, splitOff } from './example-collector.ts';
import { overLengthWarnings } from './over-length.ts';
import { problemsError } from './problems.ts';
import { type ExampleSource, type RenderingOptions, tokenizeDataset } from './tokenize-dataset.ts';

/** What a run reads. */
export interface PreparationSpec extends RenderingOptions {
  /** `datasets/{id}`. */
  readonly dataset: string;
  /** `datasets/{id}`, or empty: none. */
  readonly evalDataset: string;
  /** Share of the data set that is held out, its last examples; 0: none. Below 1; not together with `evalDataset`. */
  readonly validationSplit: number;
}

export interface PreparedExamples {
  readonly train: TokenExamples;
  readonly evaluation: TokenExamples | null;
  /** Null for exact ids: no template made them. */
  readonly template: TemplateIdentity | null;
  /** What was done to examples that were too long. */
  readonly warnings: readonly string[];
  /** What encoded the examples to train on; null for exact ids. */
  readonly encoder: EncoderKind | null;
}

export interface PreparationDependencies {
  readonly registry: ModelRegistry;
  /** @throws LuthierError DATASET_NOT_FOUND */
  readonly openDataset: (name: string) => ExampleSource;
}

function splitError(dataset: string, count: number): LuthierError {
  const description = `expected a share that leaves examples to train on, of the ${count} in ${dataset}`;
  return new LuthierError('INVALID_REQUEST', `validation_split: ${description}`, {
    violations: [{ field: 'validation_split', description, reason: '' }],
  });
}

async function prepareOne(
  { registry, openDataset }: PreparationDependencies,
  dataset: string,
  options: RenderingOptions,
  signal: AbortSignal,
): Promise<{
  examples: TokenExamples;
  template: TemplateIdentity | null;
  warnings: string[];
  encoder: EncoderKind | null;
}> {
  const collector = new ExampleCollector();
  const keep = collector.add.bind(collector);
  const result = await tokenizeDataset(registry, openDataset(dataset), options, keep, signal, true);
  if (result.problems.count > 0) throw problemsError(`${dataset} cannot be trained on`, result.problems);
  const examples = collector.examples();
  const warnings = overLengthWarnings(result.counts, result.maxSeqLength).map((warning) => `${dataset}: ${warning}`);
  const { template, encoder } = result;
  if (countOf(examples) > 0) return { examples, template, warnings, encoder };
  throw new LuthierError(
    'SEQUENCE_TOO_LONG',
    `${dataset} has nothing left to train on: none of its ${result.examples} examples fits into ${result.maxSeqLength} tokens; raise max_seq_length`,
  );
}

/**
 * Renders a run's data on worker threads.
 * @throws LuthierError DATASET_NOT_FOUND, DATASET_INVALID, NO_TRAINABLE_TOKENS and SEQUENCE_TOO_LONG with `line[n]`, INVALID_REQUEST,
 *   and what the registry throws; the signal's reason
 */
export async function prepareExamples(
  dependencies: PreparationDependencies,
  spec: PreparationSpec,
  signal: AbortSignal,
): Promise<PreparedExamples> {
  const { examples, template, warnings, encoder } = await prepareOne(dependencies, spec.dataset, spec, signal);
  if (spec.evalDataset !== '') {
    const evaluation = await prepareOne(dependencies, spec.evalDataset, spec, signal);
    const all = [...warnings, ...evaluation.warnings];
    return {
      train: examples,
      evaluation: evaluation.examples,
      template: template ?? evaluation.template,
      warnings: all,
      encoder,
    };
  }
  if (spec.validationSplit === 0) return { train: examples, evaluation: null, template, warnings, encoder };
  const split = splitOff(examples, spec.validationSplit);
  if (split === null) throw splitError(spec.dataset, countOf(examples));
  return { ...split, template, warnings, encoder };
}
