/** A whole data set to token ids, piece by piece, on worker threads. */
import type { TokenizerSource } from '../engine/engine.ts';
import { LuthierError } from '../errors/luthier-error.ts';
import type { ModelRegistry } from '../models/model-registry.ts';
import { RenderPool } from '../prompt/render-pool.ts';
import type { Renderer, TemplateIdentity, TrainOn } from '../prompt/renderer.ts';
import type { EncoderKind } from '../tokenizer/tokenizer.ts';
import type { ParsedPiece } from './example-parser.ts';
import { defaultTemplate, type FormatName } from './formats.ts';
import type { OverLength, OverLengthCounts } from './over-length.ts';
import { ProblemList } from './problems.ts';
import { ahead, RENDER_WORKERS } from './render-ahead.ts';
import { ExampleTokenizer, type TokenizedExample } from './tokenize-examples.ts';

/** How examples become what a model reads. */
export interface RenderingOptions {
  /** `models/{id}` or a path. */
  readonly model: string;
  /** Template id; empty: the model's own chat template. Not used for exact ids. */
  readonly template: string;
  readonly trainOn: TrainOn;
  /** Longest example in tokens; 0: the model's context. */
  readonly maxSeqLength: number;
  readonly overLength: OverLength;
}

/** Examples and where they come from. */
export interface ExampleSource {
  readonly format: FormatName;
  /** Stands for the examples: equal hashes, equal examples; hex. */
  readonly contentHash: string;
  /** @param signal Ends the reading at once. */
  read(signal?: AbortSignal): AsyncIterable<ParsedPiece>;
}

export interface TokenizedDataset {
  /** Null for exact ids: no template made them. */
  readonly template: TemplateIdentity | null;
  readonly maxSeqLength: number;
  readonly problems: ProblemList;
  readonly counts: OverLengthCounts;
  /** Examples read, kept or not. */
  readonly examples: number;
  /** What encoded them; null for exact ids. */
  readonly encoder: EncoderKind | null;
}

/** Options with everything that they leave to the model. */
export interface ResolvedRendering {
  /** Null for exact ids. */
  readonly renderer: Renderer | null;
  readonly maxSeqLength: number;
  readonly vocabSize: number;
  readonly tokenizer: TokenizerSource;
}

/** @throws LuthierError MODEL_NOT_FOUND, INVALID_REQUEST */
export async function limitOf(registry: ModelRegistry, options: Pick<RenderingOptions, 'model' | 'maxSeqLength'>) {
  const { metadata } = await registry.get(options.model);
  const { maxPositionEmbeddings, vocabSize, tokenizer } = metadata;
  if (options.maxSeqLength > maxPositionEmbeddings) {
    const description = `expected at most the model's context of ${maxPositionEmbeddings} tokens, found ${options.maxSeqLength}`;
    throw new LuthierError('INVALID_REQUEST', `max_seq_length: ${description}`, {
      violations: [{ field: 'max_seq_length', description, reason: '' }],
    });
  }
  return { maxSeqLength: options.maxSeqLength || maxPositionEmbeddings, vocabSize, tokenizer };
}

/** @throws LuthierError INVALID_REQUEST */
function refuseDropRounds(): never {
  const description = 'exact ids have no rounds; expected error, truncate or drop';
  throw new LuthierError('INVALID_REQUEST', `over_length: ${description}`, {
    violations: [{ field: 'over_length', description, reason: '' }],
  });
}

/** @throws as `tokenizeDataset` */
export async function resolveRendering(
  registry: ModelRegistry,
  { format }: Pick<ExampleSource, 'format'>,
  options: RenderingOptions,
): Promise<ResolvedRendering> {
  const limit = await limitOf(registry, options);
  if (format !== 'tokens') {
    return { ...limit, renderer: await registry.renderer(options.model, defaultTemplate(format, options.template)) };
  }
  if (options.overLength === 'drop_rounds') refuseDropRounds();
  return { ...limit, renderer: null };
}

/** What renders examples of a format; null for exact ids. Whoever calls closes it. */
export function openRenderPool(
  registry: ModelRegistry,
  { format }: Pick<ExampleSource, 'format'>,
  options: Pick<RenderingOptions, 'template'>,
  { renderer, tokenizer }: ResolvedRendering,
): RenderPool | null {
  if (renderer === null) return null;
  const template = defaultTemplate(format, options.template);
  const setup = { source: tokenizer, template: template === '' ? null : template, native: registry.nativeEncoders };
  return new RenderPool(renderer, setup, { size: RENDER_WORKERS });
}

/**
 * Renders every example and gives what is kept to `keep`, in order. Problems of single examples are collected, not thrown.
 * @param stopAtProblems Ends once there are more problems than can be told.
 * @throws LuthierError MODEL_NOT_FOUND, TEMPLATE_NOT_FOUND, TEMPLATE_UNUSABLE, TOKENIZER_UNSUPPORTED, INVALID_REQUEST; the signal's reason
 */
export async function tokenizeDataset(
  registry: ModelRegistry,
  source: ExampleSource,
  options: RenderingOptions,
  keep: (examples: readonly TokenizedExample[]) => void | Promise<void>,
  signal: AbortSignal,
  stopAtProblems = false,
): Promise<TokenizedDataset> {
  const rendering = await resolveRendering(registry, source, options);
  const { renderer, ...limit } = rendering;
  const pool = openRenderPool(registry, source, options, rendering);
  const problems = new ProblemList();
  const tokenizer = new ExampleTokenizer(pool, { ...options, ...limit });
  let examples = 0;
  try {
    const render = async (piece: ParsedPiece) => ({ piece, tokenized: await tokenizer.tokenize(piece.examples) });
    for await (const { piece, tokenized } of ahead(source.read(signal), render)) {
      signal.throwIfAborted();
      examples += piece.examples.length;
      problems.add(...piece.problems, ...tokenized.problems);
      await keep(tokenized.kept);
      if (stopAtProblems && problems.full) break;
    }
  } finally {
    await pool?.close();
  }
  const { maxSeqLength } = limit;
  return {
    template: renderer?.template ?? null,
    maxSeqLength,
    problems,
    counts: tokenizer.counts,
    examples,
    encoder: pool?.encoder ?? null,
  };
}
