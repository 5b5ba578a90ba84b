import { type Draw, MOST_RANKED, type TopLogits } from "../backend/backend.ts";
import { applyPenalties } from "./logits_processors.ts";
import { createRandom, type Random } from "./random.ts";
import type { SamplingParams } from "./sampling_params.ts";
import { argmax, largest, logSumExp } from "./softmax.ts";

/** A chosen token. */
export interface SampledToken {
  id: number;
  /** Natural logarithm of its probability in the distribution it was drawn from; of all tokens when greedy. */
  logprob: number;
}

/** Candidates of the first try at a cut that reads no more of the vocabulary than it must. */
const FIRST_CANDIDATES = 256;

/**
 * Chooses the tokens of one answer, one after another. The steps are Hugging Face's, in its order: penalties and
 * biases, temperature, top-k, top-p, min-p, then a draw; without sampling the likeliest token after penalties.
 */
export class Sampler {
  readonly #params: SamplingParams;
  readonly #random: Random;
  readonly #prompt: ReadonlySet<number>;
  readonly #answer = new Map<number, number>();

  /** @param promptIds tokens that the repetition penalty counts as seen */
  constructor(params: SamplingParams, promptIds: ArrayLike<number> = []) {
    this.#params = params;
    this.#random = createRandom(params.seed);
    this.#prompt = new Set(params.repetitionPenalty === 1 ? [] : Array.from(promptIds));
  }

  /** How many of the largest logits `sample` gets along with; `undefined` when it has to see all. */
  get wanted(): number | undefined {
    if (!this.#takesLogitsAsTheyAre) return undefined;
    if (!this.#draws) return 1;
    const { topK } = this.#params;
    return topK > 0 && topK <= MOST_RANKED ? topK : undefined;
  }

  /**
   * How the next `count` tokens will be drawn; `undefined` when they are not, or by more than their own logits, or among
   * more than a backend ranks.
   */
  upcoming(count: number): Draw | undefined {
    const { temperature, topK, topP, minP } = this.#params;
    if (!this.#draws || !this.#takesLogitsAsTheyAre || topK > MOST_RANKED) return undefined;
    return { temperature, topK, topP, minP, randoms: this.#random.upcoming(count) };
  }

  get #draws(): boolean {
    return this.#params.doSample && this.#params.temperature > 0;
  }

  get #takesLogitsAsTheyAre(): boolean {
    const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = this.#params;
    return repetitionPenalty === 1 && presencePenalty === 0 && frequencyPenalty === 0 && logitBias.size === 0;
  }

  /**
   * @param logits f32 `[vocab_size]`, changed in place; or the `wanted` largest
   * @throws {RangeError} when no logit is a number: the forward pass went wrong
   */
  sample(logits: Float32Array | TopLogits): SampledToken {
    if (!(logits instanceof Float32Array)) return this.#sampleRanked(logits);
    applyPenalties(logits, this.#params, this.#prompt, this.#answer);
    const token = this.#draws ? this.#draw(logits) : likeliest(logits);
    this.#answer.set(token.id, (this.#answer.get(token.id) ?? 0) + 1);
    return token;
  }

  #sampleRanked({ ids, logits, logSumExp }: TopLogits): SampledToken {
    checkFinite(logits[0]!);
    if (!this.#draws) return { id: ids[0]!, logprob: logits[0]! - logSumExp };
    const places = this.#draw(logits.slice());
    return { id: ids[places.id]!, logprob: places.logprob };
  }

  #draw(logits: Float32Array): SampledToken {
    const { temperature, topK, topP, minP } = this.#params;
    const best = argmax(logits);
    const max = logits[best]!;
    checkFinite(max);
    // Before scaling, which may round two logits to one.
    const ranks = topK > 0 && (topK < logits.length || topK <= MOST_RANKED);
    const top = ranks ? largest(logits, topK) : undefined;
    for (let i = 0; i < logits.length; i++) {
      // Relative to the largest, so that no temperature, however low, overflows f32.
      const scaled = (logits[i]! - max) / temperature;
      // NaN, of which this is false, has no chance.
      logits[i] = scaled <= 0 ? scaled : -Infinity;
    }
    const { ids, logTotal } = this.#candidates(logits, top, topP, minP);
    let left = this.#random();
    for (const id of ids) {
      left -= Math.exp(logits[id]! - logTotal);
      if (left < 0) return { id, logprob: logits[id]! - logTotal };
    }
    // Rounding left a little over: it belongs to the likeliest.
    return { id: best, logprob: logits[best]! - logTotal };
  }

  /** Ids to draw from and the logarithm of the sum of their `exp(logit)`. */
  #candidates(
    logits: Float32Array,
    top: Int32Array | undefined,
    topP: number,
    minP: number,
  ): { ids: Int32Array; logTotal: number } {
    const { length } = logits;
    const k = top?.length ?? length;
    if (topP === 1 && minP === 0 && !top) {
      return { ids: Int32Array.from({ length }, (_, id) => id), logTotal: logSumExp(logits) };
    }
    // top-p and min-p look at probabilities among the top-k.
    const norm = top ? logSumExp(Float32Array.from(top, (id) => logits[id]!)) : logSumExp(logits);
    for (let count = top ? k : Math.min(FIRST_CANDIDATES, length);; count = Math.min(count * 8, length)) {
      const ids = top ?? largest(logits, count);
      const kept = cut(ids, logits, norm, topP, minP);
      // A cut that needs more than was looked at looks again, wider.
      if (kept < ids.length || count >= k) {
        const chosen = ids.subarray(0, kept);
        return { ids: chosen, logTotal: logSumExp(Float32Array.from(chosen, (id) => logits[id]!)) };
      }
    }
  }
}

/**
 * How many of `ids` (best first) top-p and min-p keep, at least one. Top-p keeps the fewest whose probabilities
 * reach `topP`; min-p then looks at what is left, against the likeliest.
 */
function cut(ids: Int32Array, logits: Float32Array, norm: number, topP: number, minP: number): number {
  const floor = minP > 0 ? logits[ids[0]!]! + Math.log(minP) : -Infinity;
  let sum = 0;
  let kept = 0;
  while (kept < ids.length) {
    const logit = logits[ids[kept]!]!;
    if (kept > 0 && (sum >= topP || logit < floor)) break;
    sum += Math.exp(logit - norm);
    kept++;
  }
  return kept;
}

function likeliest(logits: Float32Array): SampledToken {
  const id = argmax(logits);
  checkFinite(logits[id]!);
  return { id, logprob: logits[id]! - logSumExp(logits) };
}

function checkFinite(max: number): void {
  if (!Number.isFinite(max)) {
    throw new RangeError(`Cannot choose a token: the largest logit is ${max}, the forward pass gave no usable numbers`);
  }
}
