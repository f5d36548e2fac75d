import type { Example } from '../example-parser.ts';
import type { TokenizedExample } from '../tokenize-examples.ts';
import { type Bucket, Histogram } from './histogram.ts';

/** Longest examples that are named. */
const NAMED = 5;

export interface ExampleLength {
  readonly line: number;
  readonly tokens: number;
}

export interface TokenTotals {
  readonly tokens: number;
  readonly labelTokens: number;
  /** 0 where there is none. */
  readonly shortest: number;
  readonly longest: number;
  /** Examples that are kept. */
  readonly kept: number;
}

const answersOf = ({ content }: Example): number =>
  content.kind === 'messages' ? content.messages.filter(({ role }) => role === 'assistant').length : 0;

/** Counts the tokens of a data set, whole and as kept. */
export class TokenCounts {
  readonly #lengths = new Histogram(16, 1);
  readonly #rounds = new Histogram(1, 0);
  #longest: ExampleLength[] = [];
  readonly #totals = { tokens: 0, labelTokens: 0, shortest: Number.POSITIVE_INFINITY, longest: 0, kept: 0 };

  /** Examples as they are, before any is shortened. */
  addWhole(examples: readonly TokenizedExample[]): void {
    for (const { example, inputIds } of examples) {
      const tokens = inputIds.length;
      this.#lengths.add(tokens);
      if (example.content.kind === 'messages') this.#rounds.add(answersOf(example));
      const least = this.#longest.at(-1);
      if (this.#longest.length >= NAMED && least !== undefined && tokens <= least.tokens) continue;
      this.#longest = [...this.#longest, { line: example.line, tokens }]
        .sort((a, b) => b.tokens - a.tokens || a.line - b.line)
        .slice(0, NAMED);
    }
  }

  /** Examples as a job would read them. */
  addKept(examples: readonly TokenizedExample[]): void {
    const totals = this.#totals;
    for (const { inputIds, labelTokens } of examples) {
      totals.tokens += inputIds.length;
      totals.labelTokens += labelTokens;
      totals.shortest = Math.min(totals.shortest, inputIds.length);
      totals.longest = Math.max(totals.longest, inputIds.length);
      totals.kept += 1;
    }
  }

  get totals(): TokenTotals {
    return { ...this.#totals, shortest: this.#totals.kept === 0 ? 0 : this.#totals.shortest };
  }

  get longestExamples(): readonly ExampleLength[] {
    return this.#longest;
  }

  get lengths(): Bucket[] {
    return this.#lengths.buckets();
  }

  get rounds(): Bucket[] {
    return this.#rounds.buckets();
  }
}
