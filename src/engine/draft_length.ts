/** Drafted tokens of a pass at most. */
const LONGEST_DRAFT = 15;
/** How much one token more counts in the hit rate. */
const HIT_WEIGHT = 0.3;
/** A rate of 1 would promise endless drafts. */
const HIGHEST_HIT_RATE = 0.98;
/** What a draft has to promise: below, noise eats it. */
const LEAST_GAIN = 1.1;
/** How much one pass more counts in the cost. */
const COST_WEIGHT = 0.3;
/** What a drafted row costs, in passes of one row, as long as nobody measured it. */
const ASSUMED_ROW_COST = 0.5;
/** How fast a measured cost is forgotten, a pass of one row: one slow moment does not end drafting for good. */
const FORGETTING = 0.01;

/** What a drafted row costs over a pass of one row, as measured. One for all generations of a backend. */
export class RowCost {
  #oneRowMs: number | undefined;
  #ratio = ASSUMED_ROW_COST;

  /** In passes of one row. */
  get ratio(): number {
    return this.#ratio;
  }

  /** @param rows that the pass gave logits for */
  record(rows: number, ms: number): void {
    if (rows === 1) {
      this.#oneRowMs = this.#oneRowMs === undefined ? ms : this.#oneRowMs + COST_WEIGHT * (ms - this.#oneRowMs);
      this.#ratio += FORGETTING * (ASSUMED_ROW_COST - this.#ratio);
    } else if (this.#oneRowMs) {
      const ratio = (ms / this.#oneRowMs - 1) / (rows - 1);
      this.#ratio += COST_WEIGHT * (Math.min(Math.max(ratio, 0), 2) - this.#ratio);
    }
  }
}

/** Decides how many tokens to draft before a pass. */
export interface DraftLength {
  /** Says whether the first token of a draft, made or not, was right. */
  observe(hit: boolean): void;
  /** @returns 0 to `max` */
  choose(max: number): number;
}

/** When to draft. */
export type PromptLookupMode = "auto" | "always" | "off";

/** @param cost of the backend's passes */
export function createDraftLength(mode: PromptLookupMode, cost: RowCost): DraftLength | undefined {
  if (mode === "off") return undefined;
  return mode === "auto" ? new PayingLength(cost) : LONGEST;
}

const LONGEST: DraftLength = { observe: () => {}, choose: (max) => Math.min(max, LONGEST_DRAFT) };

/**
 * As many as pay. Every token shows, at no cost, whether a draft would have had it right; drafting starts when enough
 * were and ends when they are not.
 */
class PayingLength implements DraftLength {
  readonly #cost: RowCost;
  #hitRate = 0;

  constructor(cost: RowCost) {
    this.#cost = cost;
  }

  observe(hit: boolean): void {
    this.#hitRate += HIT_WEIGHT * (Number(hit) - this.#hitRate);
  }

  choose(max: number): number {
    const rate = Math.min(this.#hitRate, HIGHEST_HIT_RATE);
    let [best, length] = [LEAST_GAIN, 0];
    for (let k = 1; k <= Math.min(max, LONGEST_DRAFT); k++) {
      // Tokens that a pass of 1 + k rows is expected to give, over what it costs: Leviathan et al. 2023, theorem 3.8.
      const gain = (1 - rate ** (k + 1)) / (1 - rate) / (1 + k * this.#cost.ratio);
      if (gain > best) [best, length] = [gain, k];
    }
    return length;
  }
}
