import type { DecoderWeights, FloatMatrix } from "./decoder_weights.ts";
import type { NBitsMatrix } from "./nbits_matrix.ts";
import type { Phi3Shape } from "./phi3_shape.ts";
import { randomFloats, randomInt4, RandomWeights } from "./random_weights.ts";

/** Rows of the embedding made at once: 12 MB of Phi-3's. */
const PIECE_ROWS = 1024;
/** 2^-9 makes a deviation of 0.29, and each value has few enough bits for f16. */
const EMBEDDING_UNIT = 2 ** -9;
/** 2^-11 makes a deviation of 0.07 around 1. */
const NORM_UNIT = 2 ** -11;
/** Deviation of q and k after their projection: scores then vary by its square, and attention has favourites. */
const QUERY_KEY_GAIN = 1.5;
/** Deviation of the logits: greedy choices lead by tenths, not by rounding errors. */
const LOGIT_GAIN = 2.5;

/**
 * Seeded random weights with the statistics of a trained model. A product of normed activations (mean square 1) with
 * K weights of deviation 1/sqrt(K) (0.018 for Phi-3) has mean square 1 again. What goes back into the residual stream
 * is smaller by sqrt(2 * layers), as GPT-2 initialised it, so that the stream stays as large as it began.
 *
 * Each weight depends on the seed and its own name only: a file may ask in any order, or for a part.
 */
export class SyntheticWeights implements DecoderWeights {
  constructor(readonly shape: Phi3Shape, readonly seed: number) {}

  embedding(): FloatMatrix | NBitsMatrix {
    const { vocabSize: rows, hiddenSize: columns, tieWordEmbeddings } = this.shape;
    if (tieWordEmbeddings) return this.#matrix("lm_head", rows, columns, LOGIT_GAIN);
    return { rows, columns, pieces: () => this.#embeddingPieces() };
  }

  head(): NBitsMatrix | "tied" {
    const { vocabSize, hiddenSize, tieWordEmbeddings } = this.shape;
    if (tieWordEmbeddings) return "tied";
    return this.#matrix("lm_head", vocabSize, hiddenSize, LOGIT_GAIN);
  }

  attentionNorm(layer: number): Float32Array {
    return this.#norm(`layers.${layer}.input_layernorm`);
  }

  qkv(layer: number): NBitsMatrix {
    const { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize } = this.shape;
    const valueRow = (numAttentionHeads + numKeyValueHeads) * headDim;
    const rows = valueRow + numKeyValueHeads * headDim;
    const gain = (row: number) => row < valueRow ? QUERY_KEY_GAIN : 1;
    return this.#matrix(`layers.${layer}.qkv_proj`, rows, hiddenSize, gain);
  }

  attentionOutput(layer: number): NBitsMatrix {
    const { hiddenSize, numAttentionHeads, headDim } = this.shape;
    return this.#matrix(`layers.${layer}.o_proj`, hiddenSize, numAttentionHeads * headDim, this.#residualGain);
  }

  mlpNorm(layer: number): Float32Array {
    return this.#norm(`layers.${layer}.post_attention_layernorm`);
  }

  gateUp(layer: number): NBitsMatrix {
    const { hiddenSize, intermediateSize } = this.shape;
    return this.#matrix(`layers.${layer}.gate_up_proj`, 2 * intermediateSize, hiddenSize, 1);
  }

  down(layer: number): NBitsMatrix {
    const { hiddenSize, intermediateSize } = this.shape;
    return this.#matrix(`layers.${layer}.down_proj`, hiddenSize, intermediateSize, this.#residualGain);
  }

  finalNorm(): Float32Array {
    return this.#norm("norm");
  }

  get #residualGain(): number {
    return 1 / Math.sqrt(2 * this.shape.numHiddenLayers);
  }

  #matrix(name: string, rows: number, columns: number, gain: number | ((row: number) => number)): NBitsMatrix {
    const deviation = 1 / Math.sqrt(columns);
    const gainOf = typeof gain === "number" ? () => gain : gain;
    return randomInt4(new RandomWeights(this.seed, name), rows, columns, (row) => deviation * gainOf(row));
  }

  #norm(name: string): Float32Array {
    return randomFloats(new RandomWeights(this.seed, name), this.shape.hiddenSize, 1, NORM_UNIT);
  }

  *#embeddingPieces(): Generator<Float32Array> {
    const { vocabSize, hiddenSize } = this.shape;
    const random = new RandomWeights(this.seed, "embed_tokens");
    for (let row = 0; row < vocabSize; row += PIECE_ROWS) {
      const rows = Math.min(PIECE_ROWS, vocabSize - row);
      yield randomFloats(random, rows * hiddenSize, 0, EMBEDDING_UNIT);
    }
  }
}
