/** Chosen examples token by token: exactly what training will read. */
import { LuthierError } from '../errors/luthier-error.ts';
import { toLuthierError } from '../errors/to-luthier-error.ts';
import type { Renderer, SegmentKind, TrainOn } from '../prompt/renderer.ts';
import { tokenOffsets } from '../tokenizer/token-offsets.ts';
import type { Tokenizer } from '../tokenizer/tokenizer.ts';
import type { Example, ParsedPiece } from './example-parser.ts';
import { ProblemList, problemsError } from './problems.ts';
import { learnedLabels } from './tokenize-examples.ts';

/** One token of an example. */
interface PreviewedToken {
  readonly id: number;
  /** What the token adds to the text. */
  readonly text: string;
  /** Not shifted; -100: not learned. */
  readonly label: number;
  /** `tokens` for exact ids. */
  readonly segment: SegmentKind | 'tokens';
  /** As the vocabulary writes it. */
  readonly piece: string;
  /** Its characters in the example's text, in Unicode code points: the first, and the one behind the last. */
  readonly start: number;
  readonly end: number;
}

export interface PreviewedExample {
  readonly index: number;
  readonly tokens: readonly PreviewedToken[];
  /** Positions that are learned. */
  readonly labelTokens: number;
  /** What the ids decode to. */
  readonly text: string;
}

/** Shown where no example is named. */
const FIRST_INDICES = [0, 1, 2];

/**
 * The examples with these indices, in the order of `indices`; none: the first three. Reads no further than the piece that holds the last of them.
 * @throws LuthierError INVALID_REQUEST for an index beyond the end; DATASET_INVALID for problems up to the last index; NOT_BUILT_YET
 */
export async function chooseExamples(
  pieces: AsyncIterable<ParsedPiece> | Iterable<ParsedPiece>,
  indices: readonly number[],
): Promise<readonly Example[]> {
  const wanted = new Set(indices.length === 0 ? FIRST_INDICES : indices);
  const last = Math.max(...wanted);
  const found = new Map<number, Example>();
  const problems = new ProblemList();
  let count = 0;
  for await (const piece of pieces) {
    problems.add(...piece.problems);
    count += piece.examples.length;
    for (const example of piece.examples) if (wanted.has(example.index)) found.set(example.index, example);
    if (count > last || problems.full) break;
  }
  if (problems.count > 0) throw problemsError('the data set cannot be shown', problems);
  if (indices.length === 0) return [...found.values()];
  return indices.map((index, position) => found.get(index) ?? outOfRange(index, position, count));
}

function outOfRange(index: number, position: number, count: number): never {
  const field = `indices[${position}]`;
  const description = `expected an index below the number of examples, ${count}; found ${index}`;
  throw new LuthierError('INVALID_REQUEST', `${field}: ${description}`, {
    violations: [{ field, description, reason: '' }],
  });
}

interface Rendered {
  readonly inputIds: Uint32Array;
  readonly labels: Int32Array;
  /** One per id. */
  readonly segments: readonly PreviewedToken['segment'][];
}

function render({ content, line }: Example, renderer: Renderer | null, trainOn: TrainOn): Rendered {
  if (content.kind === 'tokens') return { ...content, segments: Array.from(content.inputIds, () => 'tokens') };
  if (renderer === null) throw new TypeError('messages need a renderer');
  try {
    const { inputIds, labels, segments } = renderer.renderTraining(
      content.messages,
      content.tools === undefined ? { trainOn } : { trainOn, tools: content.tools },
    );
    return { inputIds, labels, segments: segments.flatMap(({ kind, ids }) => Array.from(ids, () => kind)) };
  } catch (error) {
    const known = toLuthierError(error);
    if (known.reason === 'INTERNAL') throw error;
    const violations = [{ field: `line[${line}]`, description: known.message, reason: known.reason }];
    throw new LuthierError(known.reason, `line[${line}]: ${known.message}`, { violations, cause: error });
  }
}

function checkIds({ inputIds, labels }: Rendered, line: number, vocabSize: number): void {
  const beyond = [...inputIds, ...labels].find((id) => id >= vocabSize);
  if (beyond === undefined) return;
  const description = `expected ids below the vocabulary's size ${vocabSize}, found ${beyond}`;
  throw new LuthierError('DATASET_INVALID', `line[${line}]: ${description}`, {
    violations: [{ field: `line[${line}]`, description, reason: 'UNKNOWN_TOKEN_ID' }],
  });
}

/**
 * @param renderer Null only for exact ids.
 * @throws LuthierError with `line[n]` where the template refuses the example or an id is none of the vocabulary's
 */
export function previewExample(
  example: Example,
  tokenizer: Tokenizer,
  renderer: Renderer | null,
  trainOn: TrainOn,
): PreviewedExample {
  const rendered = render(example, renderer, trainOn);
  checkIds(rendered, example.line, tokenizer.vocabSize);
  const { inputIds, labels, segments } = rendered;
  const offsets = tokenOffsets(tokenizer, inputIds);
  const tokens = tokenizer.pieces(inputIds).map(({ id, text }, position) => ({
    id,
    text,
    label: labels[position] ?? 0,
    segment: segments[position] ?? 'tokens',
    piece: tokenizer.idToPiece(id) ?? '',
    ...(offsets[position] ?? { start: 0, end: 0 }),
  }));
  return { index: example.index, tokens, labelTokens: learnedLabels(labels), text: tokenizer.decode(inputIds) };
}
