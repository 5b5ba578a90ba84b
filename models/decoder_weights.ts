import type { NBitsMatrix } from "./nbits_matrix.ts";

/** An f32 matrix `[rows, columns]` that may be too large for memory: whole rows come piece by piece. */
export interface FloatMatrix {
  rows: number;
  columns: number;
  pieces(): Iterable<Float32Array>;
}

/**
 * The weights of a decoder as its graph wants them, one at a time: each is asked for once, in the order of the graph,
 * and may be made or read only then. Rows are outputs; q and k are in the order for rotary embedding by halves.
 */
export interface DecoderWeights {
  /** Token embedding `[vocab_size, hidden_size]`: 8 bits, or f32. */
  embedding(): NBitsMatrix | FloatMatrix;
  /** lm_head `[vocab_size, hidden_size]`; `"tied"` means the embedding's. */
  head(): NBitsMatrix | "tied";
  /** `[hidden_size]`, before attention. */
  attentionNorm(layer: number): Float32Array;
  /** q, k and v one after another, `[(heads + 2 * kv_heads) * head_dim, hidden_size]`. */
  qkv(layer: number): NBitsMatrix;
  /** o_proj `[hidden_size, heads * head_dim]`. */
  attentionOutput(layer: number): NBitsMatrix;
  /** `[hidden_size]`, before the MLP. */
  mlpNorm(layer: number): Float32Array;
  /** gate and up one after another, `[2 * intermediate_size, hidden_size]`. */
  gateUp(layer: number): NBitsMatrix;
  /** down_proj `[hidden_size, intermediate_size]`. */
  down(layer: number): NBitsMatrix;
  /** `[hidden_size]`, after the last layer. */
  finalNorm(): Float32Array;
}
