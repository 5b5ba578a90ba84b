import { ModelFileError } from "../src/errors.ts";
import type { ModelShape } from "./model_shape.ts";

/** A shape with Phi-3's window and vocabulary. */
export interface Phi3Shape extends ModelShape {
  slidingWindow: number;
  /** Tokens of the SentencePiece model; the added ones follow, then padding up to `vocabSize`. */
  baseVocabSize: number;
  /** lm_head is the token embedding, which is int4 then. */
  tieWordEmbeddings?: boolean;
}

const TINY = {
  numHiddenLayers: 2,
  hiddenSize: 64,
  intermediateSize: 192,
  numAttentionHeads: 2,
  numKeyValueHeads: 2,
  headDim: 32,
  vocabSize: 1024,
  baseVocabSize: 960,
  contextLength: 512,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  slidingWindow: 255,
} as const;

/** Factors as LongRoPE has them: 1 and a little for the fast frequencies, much more for the slow ones. */
const factors = (count: number, last: number): number[] =>
  Array.from({ length: count }, (_, j) => Math.round(100 * last ** (j / (count - 1))) / 100);

/**
 * The sizes that can be made.
 *
 * - `phi-3-mini` is https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json.
 * - `tiny` has the same structure in small: as many KV heads as heads, 64 places for added tokens, a window of half the
 *   context less one. `tiny-wide` has the published window, and context to see beyond it.
 * - `tiny-longrope` has what Phi-3.5-mini and the 128k models add: other rotary factors beyond the original context, and
 *   a window that reaches further than the context.
 * - `tiny-phi-4` has what Phi-4-mini adds to that: 24 heads over 8 of keys, three quarters of each head turned, lm_head
 *   tied to the embedding, 200,064 tokens.
 *   https://huggingface.co/microsoft/Phi-4-mini-instruct/blob/main/config.json
 */
export const PHI3_SHAPES = {
  "phi-3-mini": {
    numHiddenLayers: 32,
    hiddenSize: 3072,
    intermediateSize: 8192,
    numAttentionHeads: 32,
    numKeyValueHeads: 32,
    headDim: 96,
    vocabSize: 32_064,
    baseVocabSize: 32_000,
    contextLength: 4096,
    rmsNormEps: 1e-5,
    ropeTheta: 10_000,
    slidingWindow: 2047,
  },
  tiny: TINY,
  "tiny-wide": { ...TINY, contextLength: 4096, slidingWindow: 2047 },
  "tiny-longrope": {
    ...TINY,
    slidingWindow: 262_144,
    longRope: { originalContextLength: 128, shortFactors: factors(16, 3), longFactors: factors(16, 60) },
  },
  "tiny-phi-4": {
    ...TINY,
    numAttentionHeads: 24,
    numKeyValueHeads: 8,
    headDim: 64,
    rotaryDim: 48,
    vocabSize: 200_064,
    slidingWindow: 262_144,
    longRope: { originalContextLength: 128, shortFactors: factors(24, 1), longFactors: factors(24, 40) },
    tieWordEmbeddings: true,
  },
} as const satisfies Record<string, Phi3Shape>;

/** One of {@linkcode PHI3_SHAPES}. */
export type Phi3Size = keyof typeof PHI3_SHAPES;

/** @throws {ModelFileError} when there is no such size */
export function phi3Size(name: string | undefined): Phi3Size {
  if (name !== undefined && Object.hasOwn(PHI3_SHAPES, name)) return name as Phi3Size;
  const wanted = Object.keys(PHI3_SHAPES).join(" or ");
  throw new ModelFileError(`Cannot make a synthetic model: size ${name ?? "is missing"}, wanted ${wanted}`);
}
