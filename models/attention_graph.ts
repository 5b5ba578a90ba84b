import { addCausalMask, addLengths } from "./attention_mask.ts";
import { type ModelShape, rotaryDim } from "./model_shape.ts";
import { type NBitsMatrix, sliceRows } from "./nbits_matrix.ts";
import { float, MICROSOFT, type OnnxBuilder } from "./onnx_builder.ts";
import { addRotaryCaches, type RotaryNames } from "./rotary_graph.ts";

/** Names of values that every layer's attention reads. */
export type SharedValues =
  & RotaryNames
  & ({ kind: "gqa"; seqlensK: string; totalSequenceLength: string } | { kind: "mha"; mask: string });

/** Adds what the attention of all layers shares. */
export function addSharedValues(builder: OnnxBuilder, shape: ModelShape): SharedValues {
  const subgraph = "/model/attn_mask_reformat/attn_mask_subgraph";
  if (builder.style.attention === "mha") {
    const mask = addCausalMask(builder, shape.numAttentionHeads);
    return { kind: "mha", mask, ...addRotaryCaches(builder, shape, `${subgraph}/Gather_2/output_0`) };
  }
  const lengths = addLengths(builder);
  return { kind: "gqa", ...lengths, ...addRotaryCaches(builder, shape, `${subgraph}/Gather/output_0`) };
}

/**
 * Adds a layer's attention: products of q, k and v, rotary embedding, cache, and the output projection.
 * @returns the output's name
 */
export function addAttention(
  builder: OnnxBuilder,
  shape: ModelShape,
  layer: number,
  shared: SharedValues,
  input: string,
  qkv: NBitsMatrix,
  output: NBitsMatrix,
): string {
  const path = `/model/layers.${layer}/attn`;
  const projected = addProjections(builder, shape, path, input, qkv);
  const attended = shared.kind === "gqa"
    ? addGroupQueryAttention(builder, shape, layer, shared, projected)
    : addMultiHeadAttention(builder, shape, layer, shared, projected);
  return builder.matMul(`${path}/o_proj`, attended, output);
}

/** @returns q, k and v; k and v are "" where q holds all three */
function addProjections(
  builder: OnnxBuilder,
  shape: ModelShape,
  path: string,
  input: string,
  qkv: NBitsMatrix,
): [q: string, k: string, v: string] {
  if (builder.style.fusedQkv) return [builder.matMul(`${path}/qkv_proj`, input, qkv), "", ""];
  const queries = shape.numAttentionHeads * shape.headDim;
  const keys = shape.numKeyValueHeads * shape.headDim;
  return [
    builder.matMul(`${path}/q_proj`, input, sliceRows(qkv, 0, queries)),
    builder.matMul(`${path}/k_proj`, input, sliceRows(qkv, queries, queries + keys)),
    builder.matMul(`${path}/v_proj`, input, sliceRows(qkv, queries + keys, queries + 2 * keys)),
  ];
}

const cacheNames = (kind: "past_key_values" | "present", layer: number) =>
  ["key", "value"].map((part) => `${kind}.${layer}.${part}`);

function addGroupQueryAttention(
  builder: OnnxBuilder,
  shape: ModelShape,
  layer: number,
  { seqlensK, totalSequenceLength, cosCache, sinCache }: SharedValues & { kind: "gqa" },
  projected: readonly string[],
): string {
  const name = `/model/layers.${layer}/attn/GroupQueryAttention`;
  const past = cacheNames("past_key_values", layer);
  const inputs = [...projected, ...past, seqlensK, totalSequenceLength, cosCache, sinCache];
  builder.node("GroupQueryAttention", name, inputs, [`${name}/output_0`, ...cacheNames("present", layer)], {
    domain: MICROSOFT,
    attributes: {
      num_heads: shape.numAttentionHeads,
      kv_num_heads: shape.numKeyValueHeads,
      ...float("scale", 1 / Math.sqrt(shape.headDim)),
      local_window_size: shape.slidingWindow ?? -1,
      ...float("softcap", 0),
      do_rotary: 1,
      rotary_interleaved: 0,
    },
  });
  return `${name}/output_0`;
}

/** Its heads are as many as those of keys: the builder repeats keys where they are fewer, no published file does. */
function addMultiHeadAttention(
  builder: OnnxBuilder,
  shape: ModelShape,
  layer: number,
  { mask, cosCache, sinCache }: SharedValues & { kind: "mha" },
  [q, k, v]: [q: string, k: string, v: string],
): string {
  const { numAttentionHeads, numKeyValueHeads, headDim } = shape;
  if (numAttentionHeads !== numKeyValueHeads) {
    throw new RangeError(
      `Cannot make MultiHeadAttention: ${numKeyValueHeads} heads of keys, wanted ${numAttentionHeads}`,
    );
  }
  const path = `/model/layers.${layer}/attn`;
  const partial: Record<string, number> = rotaryDim(shape) < headDim
    ? { num_heads: numAttentionHeads, rotary_embedding_dim: rotaryDim(shape) }
    : {};
  const [turnedQ, turnedK] = [["q_rotary", q], ["k_rotary", k]].map(([name, value]) =>
    builder.op("RotaryEmbedding", `${path}/${name}/RotaryEmbedding`, [value!, "position_ids", cosCache, sinCache], {
      domain: MICROSOFT,
      attributes: { interleaved: 0, ...partial },
    })
  );
  const name = `${path}/MultiHeadAttention`;
  const inputs = [turnedQ!, turnedK!, v, "", "", mask, ...cacheNames("past_key_values", layer)];
  builder.node("MultiHeadAttention", name, inputs, [`${name}/output_0`, ...cacheNames("present", layer)], {
    domain: MICROSOFT,
    attributes: { num_heads: numAttentionHeads, ...float("scale", 1 / Math.sqrt(headDim)) },
  });
  return `${name}/output_0`;
}
