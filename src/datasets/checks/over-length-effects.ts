/** What each policy would do to the examples that are too long. */
import type { OverLength } from '../over-length.ts';
import {
  type BatchRenderer,
  ExampleTokenizer,
  type TokenizedExample,
  type TokenizeOptions,
} from '../tokenize-examples.ts';

export interface OverLengthEffect {
  readonly policy: OverLength;
  /** Examples that are longer than the limit. */
  readonly examples: number;
  /** Of them, those that nothing is learned from; under `drop_rounds` they refuse the data set. */
  readonly lostExamples: number;
  /** Tokens that are not trained on. */
  readonly lostTokens: number;
}

/** One policy, over all examples that are too long. */
class Effect {
  readonly policy: OverLength;
  readonly #tokenizer: ExampleTokenizer;
  #examples = 0;
  #kept = 0;
  #lostTokens = 0;

  constructor(policy: OverLength, renderer: BatchRenderer | null, options: TokenizeOptions) {
    this.policy = policy;
    this.#tokenizer = new ExampleTokenizer(renderer, { ...options, overLength: policy });
  }

  async add(examples: readonly TokenizedExample[]): Promise<void> {
    const { kept } = await this.#tokenizer.tokenize(examples.map(({ example }) => example));
    this.#examples += examples.length;
    this.#kept += kept.length;
    const tokens = (list: readonly TokenizedExample[]): number =>
      list.reduce((sum, { inputIds }) => sum + inputIds.length, 0);
    this.#lostTokens += tokens(examples) - tokens(kept);
  }

  get result(): OverLengthEffect {
    const { policy } = this;
    const lostExamples = this.#examples - this.#kept;
    return { policy, examples: this.#examples, lostExamples, lostTokens: this.#lostTokens };
  }
}

/** Tries every policy on the examples that are too long, and on no others. */
export class OverLengthEffects {
  readonly #effects: readonly Effect[];

  /** @param renderer Null for exact ids, which have no rounds. Asked for the same examples by every policy. */
  constructor(renderer: BatchRenderer | null, options: TokenizeOptions) {
    const policies: readonly OverLength[] =
      renderer === null ? ['truncate', 'drop'] : ['truncate', 'drop_rounds', 'drop'];
    this.#effects = policies.map((policy) => new Effect(policy, renderer, options));
  }

  async add(examples: readonly TokenizedExample[]): Promise<void> {
    if (examples.length > 0) await Promise.all(this.#effects.map((effect) => effect.add(examples)));
  }

  get results(): OverLengthEffect[] {
    return this.#effects.map(({ result }) => result);
  }
}
