import { ModelFileError } from "../src/errors.ts";
import { type GgufSource, metadataNumber, metadataString } from "./gguf_source.ts";

/** The sizes of a Llama-shaped decoder. */
export interface ModelShape {
  numHiddenLayers: number;
  hiddenSize: number;
  intermediateSize: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  vocabSize: number;
  contextLength: number;
  rmsNormEps: number;
  ropeTheta: number;
  /** Attention looks back this many tokens; absent when it sees all. */
  slidingWindow?: number;
  /** Numbers of each head that are turned by their position, the first ones. @default all of a head */
  rotaryDim?: number;
  longRope?: LongRope;
}

/** Rotary frequencies are divided by factors, `[rotary_dim / 2]`: other ones beyond the context of the first training. */
export interface LongRope {
  originalContextLength: number;
  shortFactors: readonly number[];
  longFactors: readonly number[];
}

/** Numbers of each head that are turned by their position. */
export const rotaryDim = (shape: ModelShape): number => shape.rotaryDim ?? shape.headDim;

/**
 * Reads the shape of the model in `source` from its `llama.*` metadata.
 * @throws {ModelFileError} for another architecture, or one that turns only a part of each head
 */
export function readModelShape(source: GgufSource): ModelShape {
  const architecture = metadataString(source, "general.architecture");
  if (architecture !== "llama") {
    throw new ModelFileError(`Cannot convert GGUF: architecture ${architecture}, wanted llama`);
  }
  const hiddenSize = metadataNumber(source, "llama.embedding_length");
  const numAttentionHeads = metadataNumber(source, "llama.attention.head_count");
  const headDim = hiddenSize / numAttentionHeads;
  const rotaryDim = metadataNumber(source, "llama.rope.dimension_count");
  if (rotaryDim !== headDim) {
    throw new ModelFileError(`Cannot convert GGUF: ${rotaryDim} rotary dimensions, wanted all ${headDim} of a head`);
  }
  return {
    numHiddenLayers: metadataNumber(source, "llama.block_count"),
    hiddenSize,
    intermediateSize: metadataNumber(source, "llama.feed_forward_length"),
    numAttentionHeads,
    numKeyValueHeads: metadataNumber(source, "llama.attention.head_count_kv"),
    headDim,
    vocabSize: metadataNumber(source, "llama.vocab_size"),
    contextLength: metadataNumber(source, "llama.context_length"),
    rmsNormEps: shortestFloat32(metadataNumber(source, "llama.attention.layer_norm_rms_epsilon")),
    ropeTheta: metadataNumber(source, "llama.rope.freq_base"),
  };
}

/** The shortest decimal that rounds to the same f32: GGUF holds 1e-5 as 0.000009999999747378752. */
export function shortestFloat32(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === Math.fround(value)) return short;
  }
  return value;
}
