/** Names of one matrix product's node, output and constants. */
export interface MatMulNames {
  node: string;
  output: string;
  qweight: string;
  scales: string;
  zeroPoints: string;
}

/** In what decoder graphs of the same weights differ: names, operators, types of floats, hints to the runtime. */
export interface GraphStyle {
  producerName: string;
  irVersion: number;
  opset: number;
  /** Type of activations, KV, scales, norms and rotary caches. Logits are always f32. */
  floatType: "f32" | "f16";
  /**
   * `gqa`: GroupQueryAttention with the rotary embedding inside, over a packed product where `fusedQkv`.
   * `mha`: RotaryEmbedding at `position_ids`, then MultiHeadAttention under a mask that the graph makes.
   */
  attention: "gqa" | "mha";
  /** q, k and v are one product, else three. */
  fusedQkv: boolean;
  /** Small integers are Constant nodes, else initializers. */
  constantNodes: boolean;
  /** `accuracy_level` of MatMulNBits: 0 leaves activations in f32, 4 lets a kernel round them to int8. */
  accuracyLevel: 0 | 4;
  /** Scales are `[N * K/32]`, else `[N, K/32]`. */
  flatScales: boolean;
  /** gate and up are one product that is split, else two. */
  fusedGateUp: boolean;
  /** @param path such as `/model/layers.0/attn/o_proj` */
  matMulNames(path: string): MatMulNames;
}

/** The graph of the bundled model: activations stay f32, because rounding them makes backends disagree (1e-2). */
export const HEARTH_STYLE: GraphStyle = {
  producerName: "hearth",
  irVersion: 10,
  opset: 21,
  floatType: "f32",
  attention: "gqa",
  fusedQkv: true,
  constantNodes: false,
  accuracyLevel: 0,
  flatScales: false,
  fusedGateUp: true,
  matMulNames(path) {
    const node = `${path}/MatMulNBits`;
    const constant = node.slice(1).replaceAll("/", ".");
    return {
      node,
      output: `${node}/output_0`,
      qweight: `${constant}.qweight`,
      scales: `${constant}.scales`,
      zeroPoints: `${constant}.qzeros`,
    };
  },
};

/**
 * Phi-3-mini as Microsoft publishes it for CPU, int4, block 32, accuracy level 4: a MatMul that onnxruntime's
 * `MatMulNBitsQuantizer` has turned into MatMulNBits keeps its output's name, and its constants are `_Q4` and
 * `_scales`. Phi-3's gate_up_proj is unpacked, its qkv_proj unpacked and packed again.
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 */
export const GENAI_STYLE: GraphStyle = {
  producerName: "onnxruntime-genai",
  irVersion: 10,
  opset: 21,
  floatType: "f32",
  attention: "gqa",
  fusedQkv: true,
  constantNodes: false,
  accuracyLevel: 4,
  flatScales: true,
  fusedGateUp: false,
  matMulNames(path) {
    const node = `${path}/MatMul`;
    const constant = `${node.slice(1).replaceAll("/", ".")}.weight`;
    return {
      node: `${node}_Q4`,
      output: `${node}/output_0`,
      qweight: `${constant}_Q4`,
      scales: `${constant}_scales`,
      zeroPoints: `${constant}_zero_points`,
    };
  },
};

/**
 * Phi-3-mini as Microsoft and Xenova published it for the web in May 2024: what the builder wrote with `-e web` then,
 * which gave no accuracy level where none was asked for.
 * https://github.com/microsoft/onnxruntime-genai/blob/58fd66d87/src/python/py/models/builder.py
 */
export const WEB_STYLE: GraphStyle = {
  ...GENAI_STYLE,
  irVersion: 7,
  opset: 14,
  accuracyLevel: 0,
  attention: "mha",
  fusedQkv: false,
  constantNodes: true,
};
