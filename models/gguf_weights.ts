import type { DecoderWeights } from "./decoder_weights.ts";
import { type GgufSource, readMatrix, readVector } from "./gguf_source.ts";
import type { ModelShape } from "./model_shape.ts";
import { concatRows, type NBitsMatrix, reorderRows } from "./nbits_matrix.ts";
import { halfRotaryRowOrder } from "./rotary.ts";

/** The weights of a Llama GGUF, no weight rounded: projections fused, q and k back in Hugging Face's order. */
export class GgufWeights implements DecoderWeights {
  constructor(readonly source: GgufSource, readonly shape: ModelShape) {}

  embedding(): NBitsMatrix {
    return this.#matrix("token_embd", this.shape.vocabSize, this.shape.hiddenSize);
  }

  head(): NBitsMatrix | "tied" {
    if (!this.source.tensors.has("output.weight")) return "tied";
    return this.#matrix("output", this.shape.vocabSize, this.shape.hiddenSize);
  }

  attentionNorm(layer: number): Float32Array {
    return this.#vector(`blk.${layer}.attn_norm`);
  }

  qkv(layer: number): NBitsMatrix {
    const { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize } = this.shape;
    const projection = (kind: string, heads: number) =>
      this.#matrix(`blk.${layer}.attn_${kind}`, heads * headDim, hiddenSize);
    const rotated = (kind: string, heads: number) =>
      reorderRows(projection(kind, heads), halfRotaryRowOrder(heads * headDim, headDim));
    return concatRows([
      rotated("q", numAttentionHeads),
      rotated("k", numKeyValueHeads),
      projection("v", numKeyValueHeads),
    ]);
  }

  attentionOutput(layer: number): NBitsMatrix {
    const { hiddenSize, numAttentionHeads, headDim } = this.shape;
    return this.#matrix(`blk.${layer}.attn_output`, hiddenSize, numAttentionHeads * headDim);
  }

  mlpNorm(layer: number): Float32Array {
    return this.#vector(`blk.${layer}.ffn_norm`);
  }

  gateUp(layer: number): NBitsMatrix {
    const { hiddenSize, intermediateSize } = this.shape;
    const matrix = (kind: string) => this.#matrix(`blk.${layer}.ffn_${kind}`, intermediateSize, hiddenSize);
    return concatRows([matrix("gate"), matrix("up")]);
  }

  down(layer: number): NBitsMatrix {
    return this.#matrix(`blk.${layer}.ffn_down`, this.shape.hiddenSize, this.shape.intermediateSize);
  }

  finalNorm(): Float32Array {
    return this.#vector("output_norm");
  }

  #matrix(name: string, rows: number, columns: number): NBitsMatrix {
    return readMatrix(this.source, `${name}.weight`, rows, columns);
  }

  #vector(name: string): Float32Array {
    return readVector(this.source, `${name}.weight`, this.shape.hiddenSize);
  }
}
