import { ModelFileError } from "../errors.ts";
import { integer, mustBe, nodeName, number } from "./graph_index.ts";
import type { GraphReader, QuantizedProduct } from "./graph_reader.ts";
import type { ModelConfig } from "./model_config.ts";
import type { OnnxNode } from "./onnx_proto.ts";
import { MAX_ELEMENTS, ShapeValues } from "./shape_values.ts";

/** Attention of a layer, read and checked. */
export interface AttentionGraph {
  node: OnnxNode;
  /** q, k and v as one product, or as three. */
  qkv: QuantizedProduct[];
  /** Names of cosines and sines. */
  cos: string;
  sin: string;
  /** Tokens that a query looks back on, itself included; absent when it sees all. */
  window: number | undefined;
}

/** Whether a scale means 1 / sqrt(head_dim), in f32. */
const isUsualScale = (scale: number, headDim: number) => scale === 0 || Math.abs(scale * Math.sqrt(headDim) - 1) < 1e-6;

/** Tokens that a mask is tried with. A window shorter than the context hides something from its last token. */
const PROMPT_TOKENS = 64;
/** What hides a token from a softmax. */
const HIDDEN = -10_000;

/**
 * Reads the attention that makes `value`: GroupQueryAttention with the rotary embedding inside, or RotaryEmbedding and
 * MultiHeadAttention under a causal mask.
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 * @throws {ModelFileError} naming the node and what is not as it has to be
 */
export function readAttention(
  reader: GraphReader,
  value: string | undefined,
  layer: number,
  config: ModelConfig,
): AttentionGraph {
  const role = `layer ${layer}'s attention`;
  const node = reader.producer(value, role, ["GroupQueryAttention", "MultiHeadAttention"]);
  mustBe(node, "num_heads", integer(node, "num_heads"), config.numAttentionHeads);
  const scale = number(node, "scale", 0);
  if (!isUsualScale(scale, config.headDim)) mustBe(node, "scale", scale, 1 / Math.sqrt(config.headDim));
  const outputs = ["key", "value"].map((kind) => `present.${layer}.${kind}`);
  mustBe(node, "its cache", node.output.slice(1).join(), outputs.join());
  return node.opType === "GroupQueryAttention"
    ? readGroupQuery(reader, node, layer, config)
    : readMultiHead(reader, node, layer, config);
}

function checkPast(node: OnnxNode, inputs: readonly (string | undefined)[], layer: number): void {
  const wanted = ["key", "value"].map((kind) => `past_key_values.${layer}.${kind}`);
  mustBe(node, "its past", inputs.join(), wanted.join());
}

function readGroupQuery(reader: GraphReader, node: OnnxNode, layer: number, config: ModelConfig): AttentionGraph {
  const [q, k, v, pastKeys, pastValues, seqlens = "", total = "", cos = "", sin = "", ...rest] = node.input;
  mustBe(node, "kv_num_heads", integer(node, "kv_num_heads"), config.numKeyValueHeads);
  mustBe(node, "do_rotary", integer(node, "do_rotary", 0), 1);
  mustBe(node, "rotary_interleaved", integer(node, "rotary_interleaved", 0), 0);
  mustBe(node, "softcap", number(node, "softcap", 0), 0);
  // 0 and -1 are both "no".
  mustBe(node, "smooth_softmax", Math.max(0, integer(node, "smooth_softmax", 0)), 0);
  mustBe(node, "an input after sin_cache", rest.find((input) => input) ?? "absent", "absent");
  checkPast(node, [pastKeys, pastValues], layer);
  reader.once(`lengths ${seqlens} ${total}`, () => {
    const values = new ShapeValues(reader.index, { attention_mask: { dims: [1, 5], data: [1, 1, 1, 1, 1] } });
    mustBe(node, "seqlens_k for 5 tokens", values.compute(seqlens).data?.join(), "4");
    mustBe(node, "total_sequence_length for 5 tokens", values.compute(total).data?.join(), "5");
  });
  const window = integer(node, "local_window_size", -1);
  return {
    node,
    qkv: readProjections(reader, [q, k, v], layer, config),
    cos,
    sin,
    window: window > 0 ? window : undefined,
  };
}

function readMultiHead(reader: GraphReader, node: OnnxNode, layer: number, config: ModelConfig): AttentionGraph {
  const [q, k, v, bias, keyPadding, mask, pastKeys, pastValues, ...rest] = node.input;
  mustBe(node, "heads of keys", config.numKeyValueHeads, config.numAttentionHeads);
  mustBe(node, "bias", bias || "absent", "absent");
  mustBe(node, "key_padding_mask", keyPadding || "absent", "absent");
  mustBe(node, "an input after past_value", rest.find((input) => input) ?? "absent", "absent");
  checkPast(node, [pastKeys, pastValues], layer);
  reader.once(`mask ${mask}`, () => checkMask(reader, node, mask ?? "", config));
  const [turnedQ, turnedK] = [q, k].map((value) => readTurned(reader, value, layer, config));
  mustBe(node, "cos_cache of its keys", turnedK!.cos, turnedQ!.cos);
  mustBe(node, "sin_cache of its keys", turnedK!.sin, turnedQ!.sin);
  const projected = [turnedQ!.input, turnedK!.input, v];
  const { cos, sin } = turnedQ!;
  return { node, qkv: readProjections(reader, projected, layer, config), cos, sin, window: undefined };
}

/** The RotaryEmbedding that makes `value`. */
function readTurned(reader: GraphReader, value: string | undefined, layer: number, config: ModelConfig) {
  const node = reader.producer(value, `layer ${layer}'s rotary embedding`, ["RotaryEmbedding"]);
  const [input, positions = "", cos = "", sin = ""] = node.input;
  mustBe(node, "interleaved", integer(node, "interleaved", 0), 0);
  mustBe(node, "scale", number(node, "scale", 1), 1);
  const dim = integer(node, "rotary_embedding_dim", 0);
  const cacheDim = reader.index.constant(cos)?.dims[1];
  if (dim !== 0 && cacheDim !== undefined) mustBe(node, "rotary_embedding_dim", dim, 2 * cacheDim);
  // Positions that the model derives from others, for caches laid end to end, are not what is fed.
  const last = config.contextLength - 1;
  const values = new ShapeValues(reader.index, { position_ids: { dims: [1, 2], data: [0, last] } });
  mustBe(node, "the positions of 0 and the last token", values.compute(positions).data?.join(), `0,${last}`);
  return { input, cos, sin };
}

function readProjections(
  reader: GraphReader,
  [q, k, v]: readonly (string | undefined)[],
  layer: number,
  { numAttentionHeads, numKeyValueHeads, headDim, hiddenSize }: ModelConfig,
): QuantizedProduct[] {
  const [queries, keys] = [numAttentionHeads * headDim, numKeyValueHeads * headDim];
  const product = (value: string | undefined, name: string, n: number) =>
    reader.product(value, `layer ${layer}'s ${name}`, n, hiddenSize);
  if (!k && !v) return [product(q, "qkv_proj", queries + 2 * keys)];
  return [product(q, "q_proj", queries), product(k, "k_proj", keys), product(v, "v_proj", keys)];
}

/** Tries the mask on a prompt, and on one token at the end of the context: it has to hide what comes later, and no more. */
function checkMask(reader: GraphReader, node: OnnxNode, mask: string, config: ModelConfig): void {
  // Before it is tried at a length that only config.json says.
  if (config.contextLength > MAX_ELEMENTS) {
    mustBe(node, "the context of its mask", `${config.contextLength} tokens`, `at most ${MAX_ELEMENTS}`);
  }
  for (
    const [past, tokens] of [[0, Math.min(PROMPT_TOKENS, config.contextLength)], [config.contextLength - 1, 1]] as const
  ) {
    const total = past + tokens;
    const { dims, data } = new ShapeValues(reader.index, {
      input_ids: { dims: [1, tokens] },
      attention_mask: { dims: [1, total], data: new Float64Array(total).fill(1) },
      "past_key_values.0.key": { dims: [1, config.numKeyValueHeads, past, config.headDim] },
    }).compute(mask);
    const heads = dims[1] ?? 0;
    mustBe(node, `its mask for ${tokens} tokens on ${past}`, dims.join(), [1, heads, tokens, total].join());
    if (heads !== 1) mustBe(node, "heads of its mask", heads, config.numAttentionHeads);
    data!.forEach((bias: number, i: number) => {
      const [query, key] = [past + Math.floor(i / total) % tokens, i % total];
      if (key <= query ? bias === 0 : bias <= HIDDEN) return;
      throw new ModelFileError(
        `Cannot use node ${nodeName(node)}: its mask adds ${bias} to what token ${query} sees of token ${key}, ` +
          `wanted ${key <= query ? "0" : `${HIDDEN} or less`}`,
      );
    });
  }
}
