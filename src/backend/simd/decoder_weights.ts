import { ModelFileError } from "../../errors.ts";
import { externalRange, readExternalRange } from "../../model/external_tensor.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { AttributeType, type OnnxModel, type OnnxNode, type OnnxTensor } from "../../model/onnx_proto.ts";

/** A quantized matrix `[n, k]` in blocks of 32 along k, as `MatMulNBits` has it; its bytes are read when asked for. */
export interface QuantizedMatrix {
  n: number;
  k: number;
  bits: 4 | 8;
  /** u8 `[n, k/32, 32 * bits / 8]` */
  qweight(): Uint8Array;
  /** f32 `[n, k/32]` */
  scales(): Uint8Array;
  /** f32 or packed, as long as it is there. */
  zeroPoints(): Uint8Array | undefined;
}

/** Weights of one layer. Vectors are f32, as bytes. */
export interface LayerWeights {
  inputNorm(): Uint8Array;
  qkv: QuantizedMatrix;
  output: QuantizedMatrix;
  postAttentionNorm(): Uint8Array;
  gateUp: QuantizedMatrix;
  down: QuantizedMatrix;
}

/** A whole decoder, found in its ONNX graph. */
export interface DecoderWeights {
  layers: LayerWeights[];
  embedding: QuantizedMatrix;
  /** Absent when lm_head is the embedding's own bytes. */
  head: QuantizedMatrix | undefined;
  finalNorm(): Uint8Array;
  /** f32 `[context, head_dim / 2]` each */
  cos(): Uint8Array;
  sin(): Uint8Array;
  /** Bytes of all weights in the file. */
  bytes: number;
}

/**
 * Finds a decoder's weights in a graph as onnxruntime-genai's builder writes it for CPU int4 (Phi-3, Llama): fused
 * qkv_proj and gate_up_proj, embedding as GatherBlockQuantized.
 * @param onnxPath where the graph's external data lies beside
 * @throws {ModelFileError} naming the first node or tensor that is not as it has to be
 */
export function findDecoderWeights(model: OnnxModel, onnxPath: string, config: ModelConfig): DecoderWeights {
  const tensors = new Map(model.graph.initializer.map((tensor) => [tensor.name, tensor]));
  const nodes = new Map(model.graph.node.map((node) => [node.name, node]));
  const { numHiddenLayers: layers, numAttentionHeads, numKeyValueHeads, headDim, hiddenSize, vocabSize } = config;
  let bytes = 0;

  const tensor = (name: string, elements: number): () => Uint8Array => {
    const found = tensors.get(name);
    const size = found?.dims.reduce((product, dim) => product * dim, 1);
    if (!found || size !== elements) {
      throw new ModelFileError(
        `Cannot use the graph: tensor ${name} ${found ? `is [${found.dims.join(", ")}]` : "is missing"}, ` +
          `wanted ${elements} elements`,
      );
    }
    const range = externalRange(found, onnxPath);
    bytes += range?.length ?? found.rawData?.length ?? 0;
    return () => readTensor(found, range);
  };
  const matrix = (inputs: readonly (string | undefined)[], bits: number, n: number, k: number): QuantizedMatrix => {
    if (bits !== 4 && bits !== 8) throw new ModelFileError(`Cannot use ${inputs[0]}: ${bits} bits, wanted 4 or 8`);
    const [qweight, scales, zeros] = inputs;
    const zeroPoints = zeros ? tensors.get(zeros)! : undefined;
    const count = zeroPoints ? zeroPoints.dims.reduce((product, dim) => product * dim, 1) : 0;
    return {
      n,
      k,
      bits,
      qweight: tensor(qweight!, n * k * bits / 8),
      scales: tensor(scales!, n * k / 32),
      zeroPoints: zeros ? tensor(zeros, count) : () => undefined,
    };
  };
  const matMul = (name: string, n: number, k: number): QuantizedMatrix => {
    const node = nodes.get(name);
    if (node?.opType !== "MatMulNBits") {
      throw new ModelFileError(
        `Cannot use the graph: node ${name} is ${node?.opType ?? "missing"}, wanted MatMulNBits`,
      );
    }
    requireAttributes(node, { N: n, K: k, block_size: 32 });
    return matrix(node.input.slice(1), integer(node, "bits"), n, k);
  };

  const layer = (i: number): LayerWeights => {
    const path = `/model/layers.${i}`;
    return {
      inputNorm: tensor(`model.layers.${i}.input_layernorm.weight`, hiddenSize),
      qkv: matMul(
        `${path}/attn/qkv_proj/MatMulNBits`,
        (numAttentionHeads + 2 * numKeyValueHeads) * headDim,
        hiddenSize,
      ),
      output: matMul(`${path}/attn/o_proj/MatMulNBits`, hiddenSize, numAttentionHeads * headDim),
      postAttentionNorm: tensor(`model.layers.${i}.post_attention_layernorm.weight`, hiddenSize),
      gateUp: matMul(`${path}/mlp/gate_up_proj/MatMulNBits`, 2 * config.intermediateSize, hiddenSize),
      down: matMul(`${path}/mlp/down_proj/MatMulNBits`, hiddenSize, config.intermediateSize),
    };
  };
  const gather = model.graph.node.find(({ opType }) => opType === "GatherBlockQuantized");
  if (!gather) {
    throw new ModelFileError("Cannot use the graph: it has no GatherBlockQuantized, wanted an int8 embedding");
  }
  const embedding = matrix([gather.input[0], gather.input[2]], 8, vocabSize, hiddenSize);
  const head = nodes.get("/lm_head/MatMulNBits");
  const tied = sameBytes(tensors.get(head?.input[1] ?? ""), tensors.get(gather.input[0]!));
  return {
    layers: Array.from({ length: layers }, (_, i) => layer(i)),
    embedding,
    head: tied ? undefined : matMul("/lm_head/MatMulNBits", vocabSize, hiddenSize),
    finalNorm: tensor(`model.layers.${layers}.final_norm_layernorm.weight`, hiddenSize),
    cos: tensor("cos_cache", config.contextLength * headDim / 2),
    sin: tensor("sin_cache", config.contextLength * headDim / 2),
    bytes,
  };
}

function readTensor(tensor: OnnxTensor, range: ReturnType<typeof externalRange>): Uint8Array {
  const bytes = range ? readExternalRange(range) : tensor.rawData;
  if (!bytes) throw new ModelFileError(`Cannot read tensor ${tensor.name}: it has no raw data`);
  return bytes;
}

function integer(node: OnnxNode, name: string): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT);
  if (found?.i === undefined) throw new ModelFileError(`Cannot use node ${node.name}: it has no attribute ${name}`);
  return found.i;
}

function requireAttributes(node: OnnxNode, wanted: Record<string, number>): void {
  for (const [name, value] of Object.entries(wanted)) {
    const found = integer(node, name);
    if (found !== value) throw new ModelFileError(`Cannot use node ${node.name}: ${name} is ${found}, wanted ${value}`);
  }
}

/** Whether two tensors are the same part of the same file: "tied" embeddings. */
function sameBytes(a: OnnxTensor | undefined, b: OnnxTensor | undefined): boolean {
  const place = (tensor: OnnxTensor | undefined) =>
    tensor?.externalData?.filter(({ key }) => key !== "length").map(({ key, value }) => `${key}=${value}`).sort()
      .join();
  return place(a) !== undefined && place(a) === place(b);
}
