import type { TokenExamples } from '../engine/engine.ts';
import { concatenate, offsetsOf } from '../tokenizer/token-batch.ts';
import type { TokenizedExample } from './tokenize-examples.ts';

const ids = (length: number): Uint32Array => new Uint32Array(length);
const labels = (length: number): Int32Array => new Int32Array(length);

/** Joins examples as the engine takes them, batch by batch. */
export class ExampleCollector {
  readonly #inputIds: Uint32Array[] = [];
  readonly #labels: Int32Array[] = [];
  readonly #lengths: number[] = [];

  add(examples: readonly TokenizedExample[]): void {
    this.#inputIds.push(
      concatenate(
        examples.map(({ inputIds }) => inputIds),
        ids,
      ),
    );
    this.#labels.push(
      concatenate(
        examples.map((example) => example.labels),
        labels,
      ),
    );
    for (const { inputIds } of examples) this.#lengths.push(inputIds.length);
  }

  examples(): TokenExamples {
    return {
      inputIds: concatenate(this.#inputIds, ids),
      labels: concatenate(this.#labels, labels),
      offsets: offsetsOf(this.#lengths),
    };
  }
}

function slice(examples: TokenExamples, from: number, to: number): TokenExamples {
  const start = examples.offsets[from] ?? 0;
  const end = examples.offsets[to] ?? start;
  return {
    inputIds: examples.inputIds.slice(start, end),
    labels: examples.labels.slice(start, end),
    offsets: examples.offsets.slice(from, to + 1).map((offset) => offset - start),
  };
}

/** How many examples there are. */
export const countOf = ({ offsets }: TokenExamples): number => offsets.length - 1;

/**
 * Holds out the last share of the examples, rounded up to whole ones.
 * @param share Above 0, below 1.
 * @returns Null where nothing would be left to train on.
 */
export function splitOff(
  examples: TokenExamples,
  share: number,
): { readonly train: TokenExamples; readonly evaluation: TokenExamples } | null {
  const count = countOf(examples);
  const first = count - Math.ceil(count * share);
  if (first < 1) return null;
  return { train: slice(examples, 0, first), evaluation: slice(examples, first, count) };
}
