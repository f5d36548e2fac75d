/** Stored data sets to the token files that a training run reads. */
import type { TokenFile } from '../engine/engine.ts';
import { countHeldOut } from '../engine/token-file.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import type { TemplateIdentity } from '../prompt/renderer.ts';
import type { EncoderKind } from '../tokenizer/tokenizer.ts';
import { overLengthWarnings } from './over-length.ts';
import { problemsError } from './problems.ts';
import type { CachedTokens, TokenCache, TokenSummary } from './token-cache.ts';
import { tokenCacheKey } from './token-cache-key.ts';
import type { TokenFileWriter } from './token-file-writer.ts';
import { type ExampleSource, type RenderingOptions, resolveRendering, tokenizeDataset } from './tokenize-dataset.ts';

/** What a run reads. */
export interface PreparationSpec extends RenderingOptions {
  /** `datasets/{id}`. */
  readonly dataset: string;
  /** `datasets/{id}`, or empty: none. */
  readonly evalDataset: string;
  /** Share of the data set that is held out, by its examples' hashes; 0: none. Below 1; not together with `evalDataset`. */
  readonly validationSplit: number;
}

/** How examples became tokens. */
interface Encoding {
  readonly examples: number;
  /** Null for exact ids. */
  readonly encoder: EncoderKind | null;
  /** Whether the tokens were there from an earlier time. */
  readonly reused: boolean;
}

export interface PreparedExamples {
  readonly train: TokenFile;
  readonly evaluation: TokenFile | null;
  /** Null for exact ids: no template made them. */
  readonly template: TemplateIdentity | null;
  /** Longest example, as asked for or the model's context. */
  readonly maxSeqLength: number;
  /** What was done to examples that were too long. */
  readonly warnings: readonly string[];
  /** Of the examples to train on. */
  readonly encoding: Encoding;
  /** Lets the files go; until then they stay. Idempotent. */
  release(): Promise<void>;
}

export interface PreparationDependencies {
  readonly registry: ModelRegistry;
  /** @throws LuthierError DATASET_NOT_FOUND */
  readonly openDataset: (name: string) => ExampleSource;
  readonly tokenCache: TokenCache;
}

interface PreparedDataset {
  readonly tokens: CachedTokens;
  readonly template: TemplateIdentity | null;
  readonly maxSeqLength: number;
  readonly warnings: readonly string[];
}

function splitError(dataset: string, count: number, heldOut: number): LuthierError {
  const [found, rest] =
    heldOut === 0 ? ['none to evaluate', 'a larger share'] : ['none to train on', 'a smaller share'];
  const description = `of the ${count} examples in ${dataset}, this share leaves ${found}; expected ${rest}, or an eval_dataset`;
  return new LuthierError('INVALID_REQUEST', `validation_split: ${description}`, {
    violations: [{ field: 'validation_split', description, reason: '' }],
  });
}

/** From the cache, or rendered now. */
async function prepareOne(
  { registry, openDataset, tokenCache }: PreparationDependencies,
  dataset: string,
  options: RenderingOptions,
  signal: AbortSignal,
): Promise<PreparedDataset> {
  const source = openDataset(dataset);
  const { renderer, ...limits } = await resolveRendering(registry, source, options);
  const template = renderer?.template ?? null;
  const { contentHash, format } = source;
  const { trainOn, overLength } = options;
  const key = await tokenCacheKey({ contentHash, format, trainOn, overLength, template, ...limits });
  const { maxSeqLength } = limits;
  const make = async (writer: TokenFileWriter): Promise<TokenSummary> => {
    const keep = writer.add.bind(writer);
    const result = await tokenizeDataset(registry, source, options, keep, signal, true);
    if (result.problems.count > 0) throw problemsError(`${dataset} cannot be trained on`, result.problems);
    const { examples: read, counts: overLength, encoder } = result;
    if (writer.examples > 0) return { read, overLength, encoder };
    throw new LuthierError(
      'SEQUENCE_TOO_LONG',
      `${dataset} has nothing left to train on: none of its ${result.examples} examples fits into ${maxSeqLength} tokens; raise max_seq_length`,
    );
  };
  const tokens = await tokenCache.get(key, make, signal);
  const told = overLengthWarnings(tokens.summary.overLength, maxSeqLength);
  return { tokens, template, maxSeqLength, warnings: told.map((warning) => `${dataset}: ${warning}`) };
}

const whole = ({ tokens }: PreparedDataset): TokenFile => ({ path: tokens.path, part: 'all', heldOut: 0 });

/** Both parts of a data set. @throws LuthierError INVALID_REQUEST where one is empty */
async function split(dataset: string, { tokens }: PreparedDataset, heldOut: number) {
  const { path, header } = tokens;
  const count = await countHeldOut(path, heldOut);
  if (count === 0 || count === header.examples) throw splitError(dataset, header.examples, count);
  const part = (name: TokenFile['part']): TokenFile => ({ path, part: name, heldOut });
  return { train: part('train'), evaluation: part('evaluation') };
}

/**
 * Makes the files of a run's data on worker threads, or finds them. Whoever calls releases them.
 * @throws LuthierError DATASET_NOT_FOUND, DATASET_INVALID, NO_TRAINABLE_TOKENS and SEQUENCE_TOO_LONG with `line[n]`, INVALID_REQUEST,
 *   and what the registry throws; the signal's reason
 */
export async function prepareExamples(
  dependencies: PreparationDependencies,
  spec: PreparationSpec,
  signal: AbortSignal,
): Promise<PreparedExamples> {
  const { dataset, evalDataset, validationSplit } = spec;
  const prepared: PreparedDataset[] = [];
  const release = async (): Promise<void> => {
    for (const { tokens } of prepared) await tokens.release();
  };
  const prepare = async (name: string): Promise<PreparedDataset> => {
    const one = await prepareOne(dependencies, name, spec, signal);
    prepared.push(one);
    return one;
  };
  try {
    const train = await prepare(dataset);
    const evaluation = evalDataset === '' ? null : await prepare(evalDataset);
    const files =
      validationSplit > 0
        ? await split(dataset, train, validationSplit)
        : { train: whole(train), evaluation: evaluation && whole(evaluation) };
    return {
      ...files,
      template: train.template ?? evaluation?.template ?? null,
      maxSeqLength: train.maxSeqLength,
      warnings: prepared.flatMap(({ warnings }) => warnings),
      encoding: {
        examples: train.tokens.header.examples,
        encoder: train.tokens.summary.encoder,
        reused: train.tokens.reused,
      },
      release,
    };
  } catch (error) {
    await release();
    throw error;
  }
}
