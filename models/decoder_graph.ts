/**
 * The graph of a Llama-shaped decoder as onnxruntime-genai's model builder writes Phi-3 for CPU int4: fused qkv_proj,
 * grouped-query attention with rotary inside, skip connections fused into the norms. What may differ is in
 * `graph_style.ts`.
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 */
import { ModelFileError } from "../src/errors.ts";
import { DataType, tensorValueInfo } from "../src/model/onnx_proto.ts";
import type { DecoderWeights, FloatMatrix } from "./decoder_weights.ts";
import type { ModelShape } from "./model_shape.ts";
import { BLOCK_SIZE, type NBitsMatrix, sliceRows } from "./nbits_matrix.ts";
import { float, type OnnxBuilder } from "./onnx_builder.ts";
import { rotaryCaches } from "./rotary.ts";

const MICROSOFT = "com.microsoft";
const EMBEDDING = "model.embed_tokens.GatherBlockQuantized";

/** Names of values that every layer reads. */
interface SharedValues {
  seqlensK: string;
  totalSequenceLength: string;
  cosCache: string;
  sinCache: string;
}

/** The residual stream: what to add (`skip`) to what has been summed so far (`root`) before the next norm. */
interface Residual {
  root: string;
  skip: string | undefined;
}

/**
 * Adds the whole decoder to `builder`:
 * `input_ids` int64 `[batch_size, sequence_length]`, `attention_mask` int64 `[batch_size, total_sequence_length]`,
 * `past_key_values.{i}.key|value` f32 `[batch_size, num_key_value_heads, past_sequence_length, head_dim]` to
 * `logits` f32 `[batch_size, sequence_length, vocab_size]` and `present.{i}.key|value`.
 */
export function buildDecoderGraph(builder: OnnxBuilder, weights: DecoderWeights, shape: ModelShape): void {
  addInputsAndOutputs(builder, shape);
  const embedding = weights.embedding();
  const root = addEmbedding(builder, embedding);
  const shared = addSharedValues(builder, shape);
  let residual: Residual = { root, skip: undefined };
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
  builder.output(tensorValueInfo("logits", DataType.FLOAT, ["batch_size", "sequence_length", shape.vocabSize]));
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    for (const kind of ["key", "value"]) {
      builder.input(tensorValueInfo(`past_key_values.${layer}.${kind}`, DataType.FLOAT, past));
      builder.output(tensorValueInfo(`present.${layer}.${kind}`, DataType.FLOAT, present));
    }
  }
}

function addSharedValues(builder: OnnxBuilder, shape: ModelShape): SharedValues {
  const mask = "/model/attn_mask_reformat/attn_mask_subgraph";
  const sum = builder.op("ReduceSum", `${mask}/ReduceSum`, ["attention_mask", builder.int64([1])], {
    attributes: { keepdims: 0 },
  });
  const last = builder.op("Sub", `${mask}/Sub`, [sum, builder.int64([1])]);
  const dims = builder.op("Shape", `${mask}/Shape`, ["attention_mask"]);
  const total = builder.op("Gather", `${mask}/Gather`, [dims, builder.int64(1)], { attributes: { axis: 0 } });
  const toInt32 = { attributes: { to: DataType.INT32 } };
  const { cos, sin } = rotaryCaches(shape.contextLength, shape.headDim, shape.ropeTheta);
  const cacheDims = [shape.contextLength, shape.headDim / 2];
  return {
    seqlensK: builder.op("Cast", `${mask}/Sub/Cast`, [last], toInt32),
    totalSequenceLength: builder.op("Cast", `${mask}/Gather/Cast`, [total], toInt32),
    cosCache: builder.tensor("cos_cache", DataType.FLOAT, cacheDims, cos),
    sinCache: builder.tensor("sin_cache", DataType.FLOAT, cacheDims, sin),
  };
}

/** Adds the token embedding. @returns the name of the embedded tokens, f32 `[batch_size, sequence_length, hidden_size]` */
function addEmbedding(builder: OnnxBuilder, embedding: NBitsMatrix | FloatMatrix): string {
  const { rows, columns } = embedding;
  if ("pieces" in embedding) {
    const data = { byteLength: rows * columns * 4, pieces: () => embedding.pieces() };
    const table = builder.tensor("model.embed_tokens.weight", DataType.FLOAT, [rows, columns], data);
    return builder.op("Gather", "/model/embed_tokens/Gather", [table, "input_ids"]);
  }
  const { bits, qweight, scales } = embedding;
  if (bits !== 8) throw new ModelFileError(`Cannot convert token_embd.weight: ${bits} bits, wanted Q8_0`);
  const scaleDims = [rows, columns / BLOCK_SIZE];
  const inputs = [
    builder.tensor(`${EMBEDDING}.qweight`, DataType.UINT8, [rows, columns], qweight),
    "input_ids",
    builder.tensor(`${EMBEDDING}.scales`, DataType.FLOAT, scaleDims, scales),
  ];
  return builder.op("GatherBlockQuantized", "/model/embed_tokens/GatherBlockQuantized", inputs, {
    domain: MICROSOFT,
    attributes: { bits, block_size: BLOCK_SIZE, gather_axis: 0, quantize_axis: 1 },
  });
}

/** Logits. A tied head is the embedding: the same bytes, in MatMulNBits's shape. */
function addHead(
  builder: OnnxBuilder,
  weights: DecoderWeights,
  input: string,
  embedding: NBitsMatrix | FloatMatrix,
): void {
  const head = weights.head();
  if (head !== "tied") {
    builder.matMul("/lm_head", input, head, "logits");
    return;
  }
  if ("pieces" in embedding) {
    throw new ModelFileError("Cannot tie lm_head: the embedding is f32, wanted a quantized one");
  }
  const blocks = embedding.columns / BLOCK_SIZE;
  const own = builder.style.matMulNames("/lm_head");
  const names = {
    qweight: builder.alias(own.qweight, `${EMBEDDING}.qweight`, [embedding.rows, blocks, BLOCK_SIZE]),
    scales: builder.alias(own.scales, `${EMBEDDING}.scales`, [embedding.rows, blocks]),
    zeroPoints: undefined,
  };
  builder.matMulNode("/lm_head", input, names, "logits", embedding);
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
  const attention = addAttention(builder, weights, shape, layer, shared, input.normed);
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
  const scale = builder.tensor(`model.${path.replace("/", ".")}.weight`, DataType.FLOAT, [shape.hiddenSize], weight);
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

/** q, k and v as one product, then rotary, cache and attention in one operator, then the output projection. */
function addAttention(
  builder: OnnxBuilder,
  weights: DecoderWeights,
  shape: ModelShape,
  layer: number,
  shared: SharedValues,
  input: string,
): string {
  const { numAttentionHeads, numKeyValueHeads, headDim } = shape;
  const path = `/model/layers.${layer}/attn`;
  const qkv = builder.matMul(`${path}/qkv_proj`, input, weights.qkv(layer));
  const name = `${path}/GroupQueryAttention`;
  const past = ["key", "value"].map((kind) => `past_key_values.${layer}.${kind}`);
  const present = ["key", "value"].map((kind) => `present.${layer}.${kind}`);
  const { seqlensK, totalSequenceLength, cosCache, sinCache } = shared;
  const inputs = [qkv, "", "", ...past, seqlensK, totalSequenceLength, cosCache, sinCache];
  builder.node("GroupQueryAttention", name, inputs, [`${name}/output_0`, ...present], {
    domain: MICROSOFT,
    attributes: {
      num_heads: numAttentionHeads,
      kv_num_heads: numKeyValueHeads,
      ...float("scale", 1 / Math.sqrt(headDim)),
      local_window_size: shape.slidingWindow ?? -1,
      ...float("softcap", 0),
      do_rotary: 1,
      rotary_interleaved: 0,
    },
  });
  return builder.matMul(`${path}/o_proj`, `${name}/output_0`, weights.attentionOutput(layer));
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
