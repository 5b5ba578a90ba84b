/**
 * The graph of a Llama-shaped decoder as onnxruntime-genai's model builder writes Phi-3 with int4 weights, skip
 * connections fused into the norms. What may differ is in `graph_style.ts`.
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 */
import { DataType, tensorValueInfo } from "../src/model/onnx_proto.ts";
import { addAttention, addSharedValues, type SharedValues } from "./attention_graph.ts";
import type { DecoderWeights } from "./decoder_weights.ts";
import { addEmbedding, addHead } from "./embedding_graph.ts";
import type { ModelShape } from "./model_shape.ts";
import { type NBitsMatrix, sliceRows } from "./nbits_matrix.ts";
import { float, MICROSOFT, type OnnxBuilder } from "./onnx_builder.ts";

/** The residual stream: what to add (`skip`) to what has been summed so far (`root`) before the next norm. */
interface Residual {
  root: string;
  skip: string | undefined;
}

/**
 * Adds the whole decoder to `builder`:
 * `input_ids` int64 `[batch_size, sequence_length]`, `attention_mask` int64 `[batch_size, total_sequence_length]`,
 * for `mha` `position_ids` int64 `[batch_size, sequence_length]`, and `past_key_values.{i}.key|value` of the style's
 * float type `[batch_size, num_key_value_heads, past_sequence_length, head_dim]` to `logits` f32
 * `[batch_size, sequence_length, vocab_size]` and `present.{i}.key|value`.
 */
export function buildDecoderGraph(builder: OnnxBuilder, weights: DecoderWeights, shape: ModelShape): void {
  addInputsAndOutputs(builder, shape);
  const embedding = addEmbedding(builder, weights);
  const shared = addSharedValues(builder, shape);
  let residual: Residual = { root: embedding.embedded, skip: undefined };
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    residual = addLayer(builder, weights, shape, layer, shared, residual);
  }
  const path = `layers.${shape.numHiddenLayers}/final_norm_layernorm`;
  const { normed } = addNorm(builder, shape, path, weights.finalNorm(), residual, "last");
  addHead(builder, weights, normed, embedding);
}

function addInputsAndOutputs(builder: OnnxBuilder, shape: ModelShape): void {
  const { numKeyValueHeads, headDim } = shape;
  const past = ["batch_size", numKeyValueHeads, "past_sequence_length", headDim];
  const present = ["batch_size", numKeyValueHeads, "total_sequence_length", headDim];
  builder.input(tensorValueInfo("input_ids", DataType.INT64, ["batch_size", "sequence_length"]));
  builder.input(tensorValueInfo("attention_mask", DataType.INT64, ["batch_size", "total_sequence_length"]));
  if (builder.style.attention === "mha") {
    builder.input(tensorValueInfo("position_ids", DataType.INT64, ["batch_size", "sequence_length"]));
  }
  builder.output(tensorValueInfo("logits", DataType.FLOAT, ["batch_size", "sequence_length", shape.vocabSize]));
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    for (const kind of ["key", "value"]) {
      builder.input(tensorValueInfo(`past_key_values.${layer}.${kind}`, builder.floatType, past));
      builder.output(tensorValueInfo(`present.${layer}.${kind}`, builder.floatType, present));
    }
  }
}

function addLayer(
  builder: OnnxBuilder,
  weights: DecoderWeights,
  shape: ModelShape,
  layer: number,
  shared: SharedValues,
  residual: Residual,
): Residual {
  const inputPath = `layers.${layer}/input_layernorm`;
  const input = addNorm(builder, shape, inputPath, weights.attentionNorm(layer), residual, "middle");
  const [qkv, output] = [weights.qkv(layer), weights.attentionOutput(layer)];
  const attention = addAttention(builder, shape, layer, shared, input.normed, qkv, output);
  const afterAttention = { root: input.sum, skip: attention };
  const path = `layers.${layer}/post_attention_layernorm`;
  const post = addNorm(builder, shape, path, weights.mlpNorm(layer), afterAttention, "middle");
  return { root: post.sum, skip: addMlp(builder, weights, shape, layer, post.normed) };
}

/** `normed` is for the block that follows, `sum` for the residual stream. */
function addNorm(
  builder: OnnxBuilder,
  shape: ModelShape,
  path: string,
  weight: Float32Array,
  residual: Residual,
  place: "middle" | "last",
): { normed: string; sum: string } {
  const scale = builder.floats(`model.${path.replace("/", ".")}.weight`, [shape.hiddenSize], weight);
  const normed = `/model/${path}/output_0`;
  const epsilon = float("epsilon", shape.rmsNormEps);
  if (residual.skip === undefined) {
    const attributes = { ...epsilon, axis: -1, stash_type: 1 };
    const name = `/model/${path}/LayerNorm`;
    builder.node("SimplifiedLayerNormalization", name, [residual.root, scale], [normed], { attributes });
    return { normed, sum: residual.root };
  }
  const sum = `/model/${path}/output_3`;
  const inputs = [residual.root, residual.skip, scale];
  const outputs = place === "last" ? [normed] : [normed, "", "", sum];
  const options = { domain: MICROSOFT, attributes: epsilon };
  builder.node("SkipSimplifiedLayerNormalization", `/model/${path}/SkipLayerNorm`, inputs, outputs, options);
  return { normed, sum };
}

/** down(silu(gate(x)) * up(x)). */
function addMlp(
  builder: OnnxBuilder,
  weights: DecoderWeights,
  shape: ModelShape,
  layer: number,
  input: string,
): string {
  const path = `/model/layers.${layer}/mlp`;
  const [gate, up] = addGateAndUp(builder, path, input, weights.gateUp(layer), shape.intermediateSize);
  const sigmoid = builder.op("Sigmoid", `${path}/act_fn/Sigmoid`, [gate]);
  const silu = builder.op("Mul", `${path}/act_fn/Mul`, [gate, sigmoid]);
  const product = builder.op("Mul", `${path}/Mul`, [silu, up]);
  return builder.matMul(`${path}/down_proj`, product, weights.down(layer));
}

function addGateAndUp(
  builder: OnnxBuilder,
  path: string,
  input: string,
  matrix: NBitsMatrix,
  intermediateSize: number,
): [gate: string, up: string] {
  if (!builder.style.fusedGateUp) {
    return [
      builder.matMul(`${path}/gate_proj`, input, sliceRows(matrix, 0, intermediateSize)),
      builder.matMul(`${path}/up_proj`, input, sliceRows(matrix, intermediateSize, 2 * intermediateSize)),
    ];
  }
  const gateUp = builder.matMul(`${path}/gate_up_proj`, input, matrix);
  const split = `${path}/gate_up_proj/Split`;
  const [gate, up] = [`${split}/output_0`, `${split}/output_1`] as const;
  const sizes = builder.int64([intermediateSize, intermediateSize]);
  builder.node("Split", split, [gateUp, sizes], [gate, up], { attributes: { axis: -1 } });
  return [gate, up];
}
