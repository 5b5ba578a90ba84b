/** How much of what was measured before still counts beside one measurement more. */
const MEMORY = 0.9;

/**
 * What measurements have to show, as a share of their weight, before a part of the cost is told from that of a token:
 * prompts of one length show nothing of it.
 */
const DOUBT = [0.05, 0, 0.01] as const;

const LEAST_MS = 0.001;

/** Steps of the fit: it begins at the last one. */
const STEPS = 200;

/**
 * Milliseconds of a prefill, as measured lately: so much for each, for each token, and for each earlier token that a
 * token sees. Fitted by least squares of relative errors, since what is asked for is short and long alike; no part
 * is negative. An error is relative to what was measured and what was expected, half and half: one slow prefill says
 * little, many say that it is slow now.
 */
export class PrefillCost {
  /** Normal equations: `[part, part]` and `[part]`. */
  readonly #products = [[0, 0, 0], [0, 0, 0], [0, 0, 0]];
  readonly #sums = [0, 0, 0];
  /** Milliseconds of each part. */
  readonly #cost = [0, 0, 0];

  /** @param tokens that were evaluated; @param from tokens that there were before them */
  record(tokens: number, from: number, ms: number): void {
    // Clocks may be too coarse to see it at all.
    const measured = Math.max(ms, LEAST_MS);
    const expected = Math.max(this.ms(tokens, from) ?? measured, LEAST_MS);
    const scale = Math.sqrt(measured * expected);
    const row = parts(tokens, from).map((amount) => amount / scale);
    row.forEach((a, i) => {
      this.#sums[i] = MEMORY * this.#sums[i]! + a * (measured / scale);
      row.forEach((b, j) => this.#products[i]![j] = MEMORY * this.#products[i]![j]! + a * b);
    });
    for (let step = 0; step < STEPS; step++) {
      // The tokens' own part first: alone it explains a single measurement.
      for (const i of [1, 2, 0]) this.#cost[i] = Math.max(0, this.#best(i));
    }
  }

  /** `undefined` before the first measurement. */
  ms(tokens: number, from: number): number | undefined {
    if (this.#sums[1] === 0) return undefined;
    return parts(tokens, from).reduce((sum, amount, i) => sum + amount * this.#cost[i]!, 0);
  }

  /** A part's cost, given the others'. */
  #best(i: number): number {
    const products = this.#products[i]!;
    const others = products.reduce((sum, product, j) => j === i ? sum : sum + product * this.#cost[j]!, 0);
    return (this.#sums[i]! - others) / (products[i]! * (1 + DOUBT[i]!));
  }
}

/** What each part is paid for. */
const parts = (tokens: number, from: number) => [1, tokens, tokens * (from + tokens / 2)];
