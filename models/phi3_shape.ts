import { ModelFileError } from "../src/errors.ts";
import type { ModelShape } from "./model_shape.ts";

/** A shape with Phi-3's window and vocabulary. */
export interface Phi3Shape extends ModelShape {
  slidingWindow: number;
  /** Tokens of the SentencePiece model; the added ones follow, then padding up to `vocabSize`. */
  baseVocabSize: number;
}

/**
 * The sizes that can be made.
 *
 * `phi-3-mini` is https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json. `tiny` has the same
 * structure in small: as many KV heads as heads, 64 places for added tokens, a window of half the context less one.
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
  tiny: {
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
