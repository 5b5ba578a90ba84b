/**
 * The graph of a Llama-shaped decoder as onnxruntime-genai's model builder writes Phi-3 for CPU int4: fused qkv_proj
 * and gate_up_proj, grouped-query attention with rotary inside, skip connections fused into the norms.
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 */
import { ModelFileError } from "../src/errors.ts";
import { DataType, tensorValueInfo } from "../src/model/onnx_proto.ts";
import { type GgufSource, readMatrix, readVector } from "./gguf_source.ts";
import type { ModelShape } from "./model_shape.ts";
import { BLOCK_SIZE, concatRows, type NBitsMatrix, reorderRows } from "./nbits_matrix.ts";
import { float, type OnnxBuilder } from "./onnx_builder.ts";
import { halfRotaryRowOrder, rotaryCaches } from "./rotary.ts";

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
export function buildDecoderGraph(builder: OnnxBuilder, source: GgufSource, shape: ModelShape): void {
  addInputsAndOutputs(builder, shape);
  const embedding = readMatrix(source, "token_embd.weight", shape.vocabSize, shape.hiddenSize);
  const root = addEmbedding(builder, embedding);
  const shared = addSharedValues(builder, shape);
  let residual: Residual = { root, skip: undefined };
  for (let layer = 0; layer < shape.numHiddenLayers; layer++) {
    residual = addLayer(builder, source, shape, layer, shared, residual);
  }
  const weight = readVector(source, "output_norm.weight", shape.hiddenSize);
  const path = `layers.${shape.numHiddenLayers}/final_norm_layernorm`;
  const { normed } = addNorm(builder, shape, path, weight, residual, "last");
  addHead(builder, source, shape, normed, embedding);
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
function addEmbedding(builder: OnnxBuilder, embedding: NBitsMatrix): string {
  const { rows, columns, bits, qweight, scales } = embedding;
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

/** Logits. A model without `output.weight` uses its embedding ("tied"): the same bytes, in MatMulNBits's shape. */
function addHead(
  builder: OnnxBuilder,
  source: GgufSource,
  shape: ModelShape,
  input: string,
  embedding: NBitsMatrix,
): void {
  const name = "/lm_head/MatMulNBits";
  const prefix = "lm_head.MatMulNBits";
  if (source.tensors.has("output.weight")) {
    const matrix = readMatrix(source, "output.weight", shape.vocabSize, shape.hiddenSize);
    builder.matMulNode(name, input, builder.matrix(prefix, matrix), "logits", matrix);
    return;
  }
  const blocks = embedding.columns / BLOCK_SIZE;
  const names = {
    qweight: builder.alias(`${prefix}.qweight`, `${EMBEDDING}.qweight`, [embedding.rows, blocks, BLOCK_SIZE]),
    scales: builder.alias(`${prefix}.scales`, `${EMBEDDING}.scales`, [embedding.rows, blocks]),
    zeroPoints: undefined,
  };
  builder.matMulNode(name, input, names, "logits", embedding);
}

function addLayer(
  builder: OnnxBuilder,
  source: GgufSource,
  shape: ModelShape,
  layer: number,
  shared: SharedValues,
  residual: Residual,
): Residual {
  const vector = (name: string) => readVector(source, `blk.${layer}.${name}.weight`, shape.hiddenSize);
  const input = addNorm(builder, shape, `layers.${layer}/input_layernorm`, vector("attn_norm"), residual, "middle");
  const attention = addAttention(builder, source, shape, layer, shared, input.normed);
  const afterAttention = { root: input.sum, skip: attention };
  const path = `layers.${layer}/post_attention_layernorm`;
  const post = addNorm(builder, shape, path, vector("ffn_norm"), afterAttention, "middle");
  return { root: post.sum, skip: addMlp(builder, source, shape, layer, post.normed) };
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
  source: GgufSource,
  shape: ModelShape,
  layer: number,
  shared: SharedValues,
  input: string,
): string {
  const { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize } = shape;
  const path = `/model/layers.${layer}/attn`;
  const projection = (kind: string, heads: number) =>
    readMatrix(source, `blk.${layer}.attn_${kind}.weight`, heads * headDim, hiddenSize);
  const rotated = (kind: string, heads: number) =>
    reorderRows(projection(kind, heads), halfRotaryRowOrder(heads * headDim, headDim));
  const qkv = builder.matMul(
    `${path}/qkv_proj`,
    input,
    concatRows([rotated("q", numAttentionHeads), rotated("k", numKeyValueHeads), projection("v", numKeyValueHeads)]),
  );
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
      local_window_size: -1,
      ...float("softcap", 0),
      do_rotary: 1,
      rotary_interleaved: 0,
    },
  });
  const output = readMatrix(source, `blk.${layer}.attn_output.weight`, hiddenSize, numAttentionHeads * headDim);
  return builder.matMul(`${path}/o_proj`, `${name}/output_0`, output);
}

/** down(silu(gate(x)) * up(x)), gate and up as one product. */
function addMlp(builder: OnnxBuilder, source: GgufSource, shape: ModelShape, layer: number, input: string): string {
  const { hiddenSize, intermediateSize } = shape;
  const path = `/model/layers.${layer}/mlp`;
  const matrix = (kind: string, rows: number, columns: number) =>
    readMatrix(source, `blk.${layer}.ffn_${kind}.weight`, rows, columns);
  const gateUp = builder.matMul(
    `${path}/gate_up_proj`,
    input,
    concatRows([matrix("gate", intermediateSize, hiddenSize), matrix("up", intermediateSize, hiddenSize)]),
  );
  const split = `${path}/gate_up_proj/Split`;
  const [gate, up] = [`${split}/output_0`, `${split}/output_1`];
  const sizes = builder.int64([intermediateSize, intermediateSize]);
  builder.node("Split", split, [gateUp, sizes], [gate, up], { attributes: { axis: -1 } });
  const sigmoid = builder.op("Sigmoid", `${path}/act_fn/Sigmoid`, [gate]);
  const silu = builder.op("Mul", `${path}/act_fn/Mul`, [gate, sigmoid]);
  const product = builder.op("Mul", `${path}/Mul`, [silu, up]);
  return builder.matMul(`${path}/down_proj`, product, matrix("down", hiddenSize, intermediateSize));
}
