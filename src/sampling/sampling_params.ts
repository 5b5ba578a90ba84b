import { InvalidRequestError } from "../errors.ts";

/** How the next token is chosen from the logits. */
export interface SamplingParams {
  /** `false` takes the likeliest token. @default false */
  doSample: boolean;
  /** Divides the logits; 0 takes the likeliest token. @default 1 */
  temperature: number;
  /** Choose among so many likeliest tokens; 0 for all. @default 0 */
  topK: number;
  /** Choose among the fewest tokens whose probabilities add up to this. @default 1 */
  topP: number;
  /** Leave out tokens less likely than this share of the likeliest. @default 0 */
  minP: number;
  /** Divides (or, where negative, multiplies) the logits of tokens seen in prompt or answer. @default 1 */
  repetitionPenalty: number;
  /** Subtracted once from tokens of the answer so far. @default 0 */
  presencePenalty: number;
  /** Subtracted from tokens of the answer so far, for each time they occur. @default 0 */
  frequencyPenalty: number;
  /** Makes chance repeatable. @default from the system's random numbers */
  seed: number | undefined;
  /** Added to the logits of these token ids. @default none */
  logitBias: ReadonlyMap<number, number>;
}

/** The likeliest token, always. */
export const GREEDY: Readonly<SamplingParams> = {
  doSample: false,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  seed: undefined,
  logitBias: new Map(),
};

const RANGES: readonly [keyof SamplingParams, string, (value: number) => boolean, string][] = [
  ["temperature", "temperature", (v) => v >= 0, "0 or more"],
  ["topK", "top_k", (v) => Number.isInteger(v) && v >= 0, "an integer of 0 or more"],
  ["topP", "top_p", (v) => v > 0 && v <= 1, "above 0 and up to 1"],
  ["minP", "min_p", (v) => v >= 0 && v <= 1, "from 0 to 1"],
  // Beyond, a logit would be no finite f32 any more.
  ["repetitionPenalty", "repetition_penalty", (v) => v >= 1e-6 && v <= 1e6, "from 0.000001 to 1000000"],
  ["presencePenalty", "presence_penalty", () => true, "a finite number"],
  ["frequencyPenalty", "frequency_penalty", () => true, "a finite number"],
];

/**
 * Fills in the defaults ({@linkcode GREEDY}) and checks the ranges.
 * @param vocabSize of the model: biased ids are below it
 * @throws {InvalidRequestError} naming the first parameter that is out of range, as the API spells it
 */
export function resolveSamplingParams(partial: Partial<SamplingParams>, vocabSize = Infinity): SamplingParams {
  const given = Object.fromEntries(Object.entries(partial).filter(([, value]) => value !== undefined));
  const params: SamplingParams = { ...GREEDY, ...given };
  for (const [key, name, inRange, wanted] of RANGES) {
    const value = params[key] as number;
    if (!Number.isFinite(value) || !inRange(value)) {
      throw new InvalidRequestError(`Cannot sample with ${name} ${value}: wanted ${wanted}`, name);
    }
  }
  if (params.seed !== undefined && !Number.isSafeInteger(params.seed)) {
    throw new InvalidRequestError(`Cannot sample with seed ${params.seed}: wanted an integer`, "seed");
  }
  for (const [id, bias] of params.logitBias) {
    if (!Number.isInteger(id) || id < 0 || !Number.isFinite(bias)) {
      throw new InvalidRequestError(`Cannot bias token ${id} by ${bias}: wanted a token id and a number`, "logit_bias");
    }
    if (id >= vocabSize) {
      throw new InvalidRequestError(
        `Cannot bias token ${id}: the vocabulary has 0 to ${vocabSize - 1}`,
        "logit_bias",
      );
    }
  }
  return params;
}
