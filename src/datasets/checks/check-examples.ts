/** A data set against a model and a template: every problem, and what training would read. */
import type { FieldViolation } from '../../errors/luthier-error.ts';
import type { ModelRegistry } from '../../models/model-registry.ts';
import type { RenderPool } from '../../prompt/render-pool.ts';
import type { TemplateIdentity } from '../../prompt/renderer.ts';
import type { EncoderKind } from '../../tokenizer/tokenizer.ts';
import type { Example } from '../example-parser.ts';
import type { FileLayout } from '../file-layout.ts';
import type { FormatName } from '../formats.ts';
import { overLengthWarnings } from '../over-length.ts';
import { ProblemList } from '../problems.ts';
import type { FilePiece } from '../read-examples.ts';
import { emptyDataset } from '../receive-upload.ts';
import { ahead } from '../render-ahead.ts';
import { limitOf, openRenderPool, type RenderingOptions, resolveRendering } from '../tokenize-dataset.ts';
import { ExampleTokenizer, type TokenizedExample } from '../tokenize-examples.ts';
import type { Bucket } from './histogram.ts';
import { type ProblemKind, ProblemKinds } from './kinds.ts';
import { type OverLengthEffect, OverLengthEffects } from './over-length-effects.ts';
import { RememberedRenderings } from './remembered-renderings.ts';
import { type ExampleLength, TokenCounts, type TokenTotals } from './token-counts.ts';

export interface CheckOptions extends RenderingOptions {
  readonly perDeviceTrainBatchSize: number;
  readonly gradientAccumulationSteps: number;
  readonly numTrainEpochs: number;
}

/** How far a check is. */
export interface CheckProgress {
  readonly readBytes: number;
  readonly examples: number;
  readonly problemCount: number;
}

/** What a data set holds for a model and a template. */
export interface CheckReport extends TokenTotals {
  /** Null where nothing could be read. */
  readonly layout: FileLayout | null;
  /** Examples read, with problems or without. */
  readonly examples: number;
  /** Null for exact ids: no template made them. */
  readonly template: TemplateIdentity | null;
  /** What encoded them; null for exact ids. */
  readonly encoder: EncoderKind | null;
  /** What a job would refuse. */
  readonly problems: ProblemList;
  readonly kinds: readonly ProblemKind[];
  readonly warnings: readonly string[];
  readonly lengths: readonly Bucket[];
  readonly rounds: readonly Bucket[];
  readonly longestExamples: readonly ExampleLength[];
  readonly overLengthEffects: readonly OverLengthEffect[];
  readonly maxSeqLength: number;
  readonly stepsPerEpoch: number;
  readonly totalSteps: number;
}

/** Longer than any example: nothing is too long for it. */
const NO_LIMIT = 2 ** 32;

type RenderedExamples = Awaited<ReturnType<ExampleTokenizer['tokenize']>>;

type Limit = Awaited<ReturnType<typeof limitOf>>;

/** The line of a problem, for its place among others; the file's own come last. */
function lineOf({ field }: FieldViolation): number {
  const line = /^line\[(\d+)\]/.exec(field)?.[1];
  return line === undefined ? Number.MAX_SAFE_INTEGER : Number(line);
}

/** Renders examples of one format and keeps the accounts. */
class Accounts {
  readonly counts = new TokenCounts();
  readonly template: TemplateIdentity | null;
  readonly #pool: RenderPool | null;
  readonly #remembered: RememberedRenderings | null;
  readonly #whole: ExampleTokenizer;
  readonly #limited: ExampleTokenizer;
  readonly #effects: OverLengthEffects;
  readonly #maxSeqLength: number;

  private constructor(pool: RenderPool | null, limit: Limit, options: CheckOptions) {
    this.#pool = pool;
    this.template = pool?.renderer.template ?? null;
    this.#maxSeqLength = limit.maxSeqLength;
    this.#whole = new ExampleTokenizer(pool, { ...options, ...limit, maxSeqLength: NO_LIMIT, overLength: 'error' });
    this.#remembered = pool === null ? null : new RememberedRenderings(pool);
    this.#limited = new ExampleTokenizer(this.#remembered, { ...options, ...limit });
    this.#effects = new OverLengthEffects(this.#remembered, { ...options, ...limit });
  }

  /** @throws what the registry throws; LuthierError INVALID_REQUEST */
  static async open(registry: ModelRegistry, format: FormatName, options: CheckOptions): Promise<Accounts> {
    const rendering = await resolveRendering(registry, { format }, options);
    return new Accounts(openRenderPool(registry, { format }, options, rendering), rendering, options);
  }

  /** What encoded; null for exact ids. */
  get encoder(): EncoderKind | null {
    return this.#pool?.encoder ?? null;
  }

  /** Whole, whatever their length. May be asked for the next ones meanwhile. */
  render(examples: readonly Example[]): Promise<RenderedExamples> {
    return this.#whole.tokenize(examples);
  }

  /** Rendered examples, in the order of the file. @returns all of their problems */
  async add({ kept, problems }: RenderedExamples): Promise<readonly FieldViolation[]> {
    this.counts.addWhole(kept);
    const isLong = ({ inputIds }: TokenizedExample): boolean => inputIds.length > this.#maxSeqLength;
    const long = kept.filter(isLong);
    this.counts.addKept(kept.filter((example) => !isLong(example)));
    if (long.length === 0) return problems;
    this.#remembered?.remember(long);
    const limited = await this.#limited.tokenize(long.map(({ example }) => example));
    this.counts.addKept(limited.kept);
    await this.#effects.add(long);
    return [...problems, ...limited.problems];
  }

  get warnings(): string[] {
    return overLengthWarnings(this.#limited.counts, this.#maxSeqLength);
  }

  get overLengthEffects(): OverLengthEffect[] {
    return this.#effects.results;
  }

  /** Rejects what is being rendered. */
  async close(): Promise<void> {
    await this.#pool?.close();
  }
}

/** Optimizer steps, as transformers' Trainer counts them: the last batch and the last group of batches may be smaller. */
function stepsOf(kept: number, options: CheckOptions): { readonly stepsPerEpoch: number; readonly totalSteps: number } {
  const batches = Math.ceil(kept / options.perDeviceTrainBatchSize);
  const stepsPerEpoch = Math.ceil(batches / options.gradientAccumulationSteps);
  return { stepsPerEpoch, totalSteps: Math.ceil(stepsPerEpoch * options.numTrainEpochs) };
}

/**
 * Reads everything once, a piece at a time, and yields its progress after each; returns the report.
 * @param pieces Read with notices.
 * @throws LuthierError MODEL_NOT_FOUND, TEMPLATE_NOT_FOUND, TEMPLATE_UNUSABLE, TOKENIZER_UNSUPPORTED, INVALID_REQUEST; the signal's reason, at once
 */
export async function* checkExamples(
  registry: ModelRegistry,
  pieces: AsyncIterable<FilePiece>,
  options: CheckOptions,
  signal: AbortSignal,
): AsyncGenerator<CheckProgress, CheckReport, undefined> {
  const limit = await limitOf(registry, options);
  const problems = new ProblemList();
  const kinds = new ProblemKinds();
  const refuse = (found: readonly FieldViolation[]): void => {
    for (const problem of found) problems.add(problem);
    kinds.add(true, found);
  };
  const opened: { opening: Promise<Accounts> | null; accounts: Accounts | null } = { opening: null, accounts: null };
  let layout: FileLayout | null = null;
  let examples = 0;
  const onAbort = (): void => void opened.accounts?.close();
  signal.addEventListener('abort', onAbort, { once: true });
  const render = async (piece: FilePiece) => {
    const { format } = piece.layout;
    if (format === null || piece.examples.length === 0) return { piece, rendered: null };
    opened.opening ??= Accounts.open(registry, format, options);
    opened.accounts = await opened.opening;
    return { piece, rendered: await opened.accounts.render(piece.examples) };
  };
  try {
    for await (const { piece, rendered } of ahead(pieces, render)) {
      signal.throwIfAborted();
      layout = piece.layout;
      examples += piece.examples.length;
      let found = piece.problems;
      if (opened.accounts !== null && rendered !== null) {
        found = [...found, ...(await opened.accounts.add(rendered))].sort((a, b) => lineOf(a) - lineOf(b));
      }
      refuse(found);
      kinds.add(false, piece.notices);
      yield { readBytes: piece.bytesRead, examples, problemCount: problems.count };
    }
  } catch (error) {
    // The pool that the signal closed says no more than that it is closed.
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', onAbort);
    // Also one that is only being opened: a piece ahead waits for it.
    await Promise.resolve(opened.opening).then(
      (accounts) => accounts?.close(),
      () => undefined,
    );
  }
  if (examples === 0 && problems.count === 0) refuse([emptyDataset('file')]);
  const { accounts } = opened;
  const counts = accounts?.counts ?? new TokenCounts();
  return {
    ...counts.totals,
    ...stepsOf(counts.totals.kept, options),
    layout,
    examples,
    template: accounts?.template ?? null,
    encoder: accounts?.encoder ?? null,
    problems,
    kinds: kinds.list(),
    warnings: accounts?.warnings ?? [],
    lengths: counts.lengths,
    rounds: counts.rounds,
    longestExamples: counts.longestExamples,
    overLengthEffects: accounts?.overLengthEffects ?? [],
    maxSeqLength: limit.maxSeqLength,
  };
}
