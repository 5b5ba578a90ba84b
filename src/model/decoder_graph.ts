import { type AttentionGraph, readAttention } from "./attention_reader.ts";
import { integer, mustBe, number } from "./graph_index.ts";
import { GraphReader, type QuantizedProduct } from "./graph_reader.ts";
import type { ModelConfig } from "./model_config.ts";
import type { OnnxModel, OnnxNode, OnnxTensor } from "./onnx_proto.ts";
import { readRotary, type Rotary } from "./rotary_reader.ts";
import { ShapeValues } from "./shape_values.ts";

/** One layer. Norms are f32 or f16 `[hidden_size]`. */
export interface LayerGraph {
  inputNorm: OnnxTensor;
  attention: AttentionGraph;
  output: QuantizedProduct;
  postAttentionNorm: OnnxTensor;
  /** gate and up as one product, or as two. */
  gateUp: QuantizedProduct[];
  down: QuantizedProduct;
}

/** A decoder as its graph says it: every operator seen, every shape checked, no weight read yet. */
export interface DecoderGraph {
  layers: LayerGraph[];
  /** Quantized, or floats `[vocab_size, hidden_size]`. */
  embedding: QuantizedProduct | OnnxTensor;
  /** lm_head is the embedding's own bytes. */
  tied: boolean;
  head: QuantizedProduct;
  /** Name of what lm_head reads, `[batch_size, sequence_length, hidden_size]`. */
  hiddenStates: string;
  finalNorm: OnnxTensor;
  epsilon: number;
  rotary: Rotary;
  /** Tokens that a query looks back on, itself included; absent when it sees all. */
  window: number | undefined;
}

/**
 * Reads a graph as onnxruntime-genai's builder writes it (Phi-3, Llama), from `logits` back to `input_ids`: names are
 * not trusted, only what an operator is and what it reads. Where the graph and `config.json` differ in what a graph can
 * say, the graph is right: it is what other runtimes run.
 * @throws {ModelFileError} naming the first node or tensor, seen from `logits`, that is not as it has to be
 */
export function readDecoderGraph(model: OnnxModel, config: ModelConfig): DecoderGraph {
  const reader = new GraphReader(model.graph);
  const { hiddenSize, vocabSize, numHiddenLayers } = config;
  const last = reader.producer("logits", "logits", ["MatMulNBits", "Cast"]);
  const head = reader.product(last.opType === "Cast" ? last.input[0] : "logits", "lm_head", vocabSize, hiddenSize);
  const hiddenStates = head.node.input[0] ?? "";
  const finalNorm = readNorm(reader, hiddenStates, "the final norm", false, config);
  const layers: LayerGraph[] = [];
  let after = finalNorm;
  for (let i = numHiddenLayers - 1; i >= 0; i--) {
    const { layer, norm } = readLayer(reader, after, i, config);
    layers.unshift(layer);
    after = norm;
  }
  const { attention } = layers[0]!;
  for (const [i, layer] of layers.entries()) {
    const { node, cos, sin, window } = layer.attention;
    const found = [cos, sin, window].join();
    mustBe(
      node,
      `rotary caches and window of layer ${i}`,
      found,
      [attention.cos, attention.sin, attention.window].join(),
    );
  }
  return {
    layers,
    ...readEmbedding(reader, after.root, head, config),
    head,
    hiddenStates,
    finalNorm: finalNorm.weight,
    epsilon: finalNorm.epsilon,
    rotary: readRotary(reader, attention.cos, attention.sin, config),
    window: attention.window,
  };
}

/** A norm, and the sum that it norms: of `root` and `skip`, or of `root` alone. */
interface Norm {
  node: OnnxNode;
  weight: OnnxTensor;
  epsilon: number;
  root: string;
  skip: string | undefined;
}

/** The norm that makes `normed`. @param isFirst it comes after the embedding, where there is nothing to add */
function readNorm(
  reader: GraphReader,
  normed: string | undefined,
  role: string,
  isFirst: boolean,
  { hiddenSize, rmsNormEps }: ModelConfig,
): Norm {
  const opType = isFirst ? "SimplifiedLayerNormalization" : "SkipSimplifiedLayerNormalization";
  const node = reader.producer(normed, role, [opType]);
  const [root = "", second = "", third, bias] = node.input;
  const epsilon = number(node, "epsilon", 1e-5);
  if (Math.abs(epsilon / rmsNormEps - 1) > 1e-3) mustBe(node, "epsilon", epsilon, rmsNormEps);
  if (isFirst) mustBe(node, "axis", integer(node, "axis", -1), -1);
  else mustBe(node, "bias", bias || "absent", "absent");
  const weight = reader.floats(isFirst ? second : third, hiddenSize);
  return { node, weight, epsilon, root, skip: isFirst ? undefined : second };
}

/** @param after the norm that adds what the layer makes. @returns the layer, and the norm that it begins with */
function readLayer(
  reader: GraphReader,
  after: Norm,
  i: number,
  config: ModelConfig,
): { layer: LayerGraph; norm: Norm } {
  const { hiddenSize, intermediateSize, numAttentionHeads, headDim } = config;
  const down = reader.product(after.skip, `layer ${i}'s down_proj`, hiddenSize, intermediateSize);
  const gateUp = readGateUp(reader, down.node.input[0], i, config);
  const post = readNorm(reader, sameInput(gateUp), `layer ${i}'s post_attention_layernorm`, false, config);
  mustBe(after.node, "the sum that it adds to", after.root, post.node.output[3]);
  const output = reader.product(post.skip, `layer ${i}'s o_proj`, hiddenSize, numAttentionHeads * headDim);
  const attention = readAttention(reader, output.node.input[0], i, config);
  const norm = readNorm(reader, sameInput(attention.qkv), `layer ${i}'s input_layernorm`, i === 0, config);
  mustBe(post.node, "the sum that it adds to", post.root, i === 0 ? norm.root : norm.node.output[3]);
  const layer = {
    inputNorm: norm.weight,
    attention,
    output,
    postAttentionNorm: post.weight,
    gateUp,
    down,
  };
  return { layer, norm };
}

/** What all products read. */
function sameInput(products: readonly QuantizedProduct[]): string {
  const [first = ""] = products[0]!.node.input;
  for (const { node } of products) mustBe(node, "what it reads", node.input[0], first);
  return first;
}

/** `gate * sigmoid(gate) * up`, of one product that is split or of two. */
function readGateUp(
  reader: GraphReader,
  value: string | undefined,
  i: number,
  { hiddenSize, intermediateSize }: ModelConfig,
): QuantizedProduct[] {
  const role = `layer ${i}'s gate`;
  const gated = reader.producer(value, role, ["Mul"]);
  const [activated, up = ""] = gated.input;
  const silu = reader.producer(activated, role, ["Mul"]);
  const [gate = "", sigmoid] = silu.input;
  mustBe(silu, "what Sigmoid reads", reader.producer(sigmoid, role, ["Sigmoid"]).input[0], gate);
  if (reader.index.producer(gate)?.opType !== "Split") {
    return [
      reader.product(gate, `layer ${i}'s gate_proj`, intermediateSize, hiddenSize),
      reader.product(up, `layer ${i}'s up_proj`, intermediateSize, hiddenSize),
    ];
  }
  const split = reader.producer(gate, role, ["Split"]);
  mustBe(split, "its outputs", split.output.join(), `${gate},${up}`);
  mustBe(split, "axis", integer(split, "axis", 0), -1);
  const halves = new ShapeValues(reader.index, {}).compute(split.input[1] ?? "").data?.join();
  mustBe(split, "the sizes of its outputs", halves, `${intermediateSize},${intermediateSize}`);
  return [reader.product(split.input[0], `layer ${i}'s gate_up_proj`, 2 * intermediateSize, hiddenSize)];
}

function readEmbedding(
  reader: GraphReader,
  embedded: string,
  head: QuantizedProduct,
  { vocabSize, hiddenSize }: ModelConfig,
): Pick<DecoderGraph, "embedding" | "tied"> {
  const node = reader.producer(embedded, "the embedding", ["Gather", "GatherBlockQuantized"]);
  const [weights = "", ids, ...constants] = node.input;
  mustBe(node, "what it is indexed by", ids, "input_ids");
  if (node.opType === "Gather") {
    mustBe(node, "axis", integer(node, "axis", 0), 0);
    return { embedding: reader.floats(weights, vocabSize * hiddenSize), tied: false };
  }
  mustBe(node, "gather_axis", integer(node, "gather_axis", 0), 0);
  mustBe(node, "quantize_axis", integer(node, "quantize_axis", 1), 1);
  // A tied embedding is lm_head's constant in another shape.
  const reshape = reader.index.producer(weights);
  const name = reshape?.opType === "Reshape" ? reshape.input[0] : weights;
  const bits = integer(node, "bits", 4);
  const embedding = reader.quantized(node, [name, ...constants], vocabSize, hiddenSize, bits);
  const tied = bits === head.bits && sameBytes(embedding.qweight, head.qweight) &&
    sameBytes(embedding.scales, head.scales) && !embedding.zeroPoints === !head.zeroPoints;
  return { embedding, tied };
}

/** Whether two tensors are the same part of the same file. */
function sameBytes(a: OnnxTensor, b: OnnxTensor): boolean {
  if (a.name === b.name) return true;
  const place = ({ externalData }: OnnxTensor) =>
    externalData?.filter(({ key }) => key !== "length").map(({ key, value }) => `${key}=${value}`).sort().join();
  return place(a) !== undefined && place(a) === place(b);
}
