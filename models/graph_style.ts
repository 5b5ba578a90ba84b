/** Names of one matrix product's node, output and constants. */
export interface MatMulNames {
  node: string;
  output: string;
  qweight: string;
  scales: string;
  zeroPoints: string;
}

/** In what a decoder graph may differ for equal arithmetic: names, shapes of constants, hints to the runtime. */
export interface GraphStyle {
  producerName: string;
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
