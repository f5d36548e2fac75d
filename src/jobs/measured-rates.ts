/** How fast jobs ran on this server's device, to say how long others will take. */

/** What a rate belongs to: the base, how its weights are held, how much is computed twice, and whether layer inputs are copied to the host. */
export interface RateKey {
  readonly contentHash: string;
  readonly storage: string;
  readonly recomputeLayers: number;
  readonly offloadActivations: boolean;
}

const text = ({ contentHash, storage, recomputeLayers, offloadActivations }: RateKey): string =>
  `${contentHash} ${storage} ${recomputeLayers} ${offloadActivations}`;

/** Rates of the latest job of each kind, kept while the server runs: the next one may have another device. */
export class MeasuredRates {
  readonly #rates = new Map<string, number>();

  /** Measures one job: the result is told each step's tokens and tokens per second. */
  measure(key: RateKey): (tokens: number, tokensPerSecond: number) => void {
    let [tokens, seconds] = [0, 0];
    return (stepTokens, tokensPerSecond) => {
      if (!(tokensPerSecond > 0)) return;
      tokens += stepTokens;
      seconds += stepTokens / tokensPerSecond;
      this.#rates.set(text(key), tokens / seconds);
    };
  }

  /** Tokens per second; null where nothing was measured. */
  of(key: RateKey): number | null {
    return this.#rates.get(text(key)) ?? null;
  }
}
