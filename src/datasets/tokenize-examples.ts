/** Examples to token ids and labels: rendered, checked, and brought under the length limit. */
import type { FieldViolation } from '../errors/luthier-error.ts';
import type { RenderedBatch } from '../prompt/render-batch.ts';
import { type Conversation, IGNORED_LABEL, type TrainingOptions } from '../prompt/renderer.ts';
import type { Example } from './example-parser.ts';
import { type OverLength, type OverLengthCounts, roundsOf, withoutOldestRounds } from './over-length.ts';

/** What renders conversations: `RenderPool`, or anything alike. */
export interface BatchRenderer {
  renderTraining(conversations: readonly Conversation[], options: TrainingOptions): Promise<RenderedBatch>;
}

export interface TokenizeOptions extends TrainingOptions {
  /** Longest example, in tokens. */
  readonly maxSeqLength: number;
  readonly overLength: OverLength;
  readonly vocabSize: number;
}

/** An example as the engine reads it. Labels are not shifted. */
export interface TokenizedExample {
  readonly example: Example;
  readonly inputIds: Uint32Array;
  readonly labels: Int32Array;
  /** Positions that are learned. The first one never is: nothing stands before it. */
  readonly labelTokens: number;
}

interface Sequence {
  readonly inputIds: Uint32Array;
  readonly labels: Int32Array;
}

type Outcome = Sequence | FieldViolation;

/** Labels that count once the engine has shifted them by one position. */
export function learnedLabels(labels: Int32Array): number {
  let count = 0;
  for (let position = 1; position < labels.length; position++) if (labels[position] !== IGNORED_LABEL) count += 1;
  return count;
}

const isProblem = (outcome: Outcome): outcome is FieldViolation => 'field' in outcome;

const conversationOf = ({ content }: Example): Conversation =>
  content.kind === 'messages' ? content : { messages: [] };

function outsideVocabulary(example: Example, vocabSize: number): FieldViolation | null {
  const { content } = example;
  if (content.kind !== 'tokens') return null;
  const find = (ids: ArrayLike<number>, name: string): FieldViolation | null => {
    const index = Array.prototype.findIndex.call(ids, (id: number) => id >= vocabSize);
    if (index < 0) return null;
    const description = `expected an id below the vocabulary's size ${vocabSize}, found ${ids[index]}`;
    return { field: `line[${example.line}].${name}[${index}]`, description, reason: 'UNKNOWN_TOKEN_ID' };
  };
  return find(content.inputIds, 'input_ids') ?? find(content.labels, 'labels');
}

/** Turns batches of examples into ids; counts over all of them what the length limit did. */
export class ExampleTokenizer {
  readonly #renderer: BatchRenderer | null;
  readonly #options: TokenizeOptions;
  readonly #counts = { truncated: 0, shortened: 0, dropped: 0 };

  /** @param renderer Null where no example has messages. */
  constructor(renderer: BatchRenderer | null, options: TokenizeOptions) {
    this.#renderer = renderer;
    this.#options = options;
  }

  get counts(): OverLengthCounts {
    return this.#counts;
  }

  /** The examples that are kept, and the problems of those that cannot be, both in order. */
  async tokenize(examples: readonly Example[]): Promise<{ kept: TokenizedExample[]; problems: FieldViolation[] }> {
    const outcomes = await this.#sequences(examples);
    const shorter = await this.#withoutRounds(examples, outcomes);
    const kept: TokenizedExample[] = [];
    const problems: FieldViolation[] = [];
    examples.forEach((example, index) => {
      const outcome = outcomes[index];
      if (outcome === undefined) return;
      const result = isProblem(outcome) ? outcome : this.#finish(example, outcome, shorter.get(index) ?? null);
      if (result === null) this.#counts.dropped += 1;
      else if ('field' in result) problems.push(result);
      else kept.push(result);
    });
    return { kept, problems };
  }

  /** Ids and labels as they are, whatever their length. */
  async #sequences(examples: readonly Example[]): Promise<Outcome[]> {
    const rendered = examples.filter(({ content }) => content.kind === 'messages');
    const outcomes = (await this.#render(rendered, rendered.map(conversationOf))).values();
    return examples.map((example) => {
      if (example.content.kind === 'tokens') {
        return outsideVocabulary(example, this.#options.vocabSize) ?? example.content;
      }
      return outcomes.next().value as Outcome;
    });
  }

  async #render(examples: readonly Example[], conversations: readonly Conversation[]): Promise<Outcome[]> {
    if (examples.length === 0) return [];
    if (this.#renderer === null) throw new TypeError('messages need a renderer');
    const batch = await this.#renderer.renderTraining(conversations, { trainOn: this.#options.trainOn });
    const failures = new Map(batch.failures.map((failure) => [failure.index, failure]));
    return examples.map(({ line }, index) => {
      const failure = failures.get(index);
      if (failure) return { field: `line[${line}]`, description: failure.message, reason: failure.code };
      const [start, end] = [batch.offsets[index], batch.offsets[index + 1]];
      return { inputIds: batch.inputIds.slice(start, end), labels: batch.labels.slice(start, end) };
    });
  }

  /** For each example that is too long, under `drop_rounds`: its rendering with as few rounds left out as fit. Found by bisection. */
  async #withoutRounds(examples: readonly Example[], outcomes: readonly Outcome[]): Promise<Map<number, Sequence>> {
    const best = new Map<number, Sequence>();
    if (this.#options.overLength !== 'drop_rounds') return best;
    let open = examples.flatMap((example, index) => {
      const outcome = outcomes[index];
      if (outcome === undefined || isProblem(outcome) || this.#fits(outcome)) return [];
      return [{ index, example, low: 1, high: roundsOf(conversationOf(example).messages).rounds.length - 1 }];
    });
    for (;;) {
      open = open.filter(({ low, high }) => low <= high);
      if (open.length === 0) return best;
      const tries = open.map((one) => ({ ...one, count: Math.floor((one.low + one.high) / 2) }));
      const rendered = await this.#render(
        tries.map(({ example }) => example),
        tries.map(({ example, count }) => withoutOldestRounds(conversationOf(example), count)),
      );
      open = tries.map(({ count, ...one }, position) => {
        const outcome = rendered[position];
        if (outcome === undefined || isProblem(outcome) || !this.#fits(outcome)) return { ...one, low: count + 1 };
        best.set(one.index, outcome);
        return { ...one, high: count - 1 };
      });
    }
  }

  #fits({ inputIds }: Sequence): boolean {
    return inputIds.length <= this.#options.maxSeqLength;
  }

  /** Null: left out. */
  #finish(example: Example, whole: Sequence, shorter: Sequence | null): TokenizedExample | FieldViolation | null {
    const field = `line[${example.line}]`;
    if (learnedLabels(whole.labels) === 0) {
      const description =
        'expected at least one token to learn, found none; an answer, a weight of 1 or a label other than -100 after the first position is missing';
      return { field, description, reason: 'NO_TRAINABLE_TOKENS' };
    }
    if (this.#fits(whole)) return kept(example, whole);
    const { maxSeqLength, overLength } = this.#options;
    if (overLength === 'drop') return null;
    const cut =
      overLength === 'truncate'
        ? { inputIds: whole.inputIds.slice(0, maxSeqLength), labels: whole.labels.slice(0, maxSeqLength) }
        : shorter;
    if (cut === null) {
      const rest = overLength === 'drop_rounds' ? ', and its newest round alone is longer, too' : '';
      const description = `expected at most ${maxSeqLength} tokens, found ${whole.inputIds.length}${rest}; shorten it, raise max_seq_length or choose another over_length`;
      return { field, description, reason: 'SEQUENCE_TOO_LONG' };
    }
    if (learnedLabels(cut.labels) === 0) return null;
    this.#counts[overLength === 'truncate' ? 'truncated' : 'shortened'] += 1;
    return kept(example, cut);
  }
}

const kept = (example: Example, { inputIds, labels }: Sequence): TokenizedExample => ({
  example,
  inputIds,
  labels,
  labelTokens: learnedLabels(labels),
});
