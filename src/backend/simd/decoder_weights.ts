import { ModelFileError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { AttributeType, DataType, type OnnxModel, type OnnxNode, type OnnxTensor } from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";

/** A quantized matrix `[n, k]` in blocks of 32 along k, as `MatMulNBits` has it. */
export interface QuantizedMatrix {
  n: number;
  k: number;
  bits: 4 | 8;
  /** u8 `[n, k/32, 32 * bits / 8]` */
  qweight: TensorBytes;
  /** f32 `[n, k/32]` */
  scales: TensorBytes;
  /** f32 `[n, k/32]`, or u8 `[n, ceil(k/64)]`, two to a byte. Absent: the middle. */
  zeroPoints: TensorBytes | undefined;
}

/** Weights of one layer. Vectors are f32. */
export interface LayerWeights {
  inputNorm: TensorBytes;
  qkv: QuantizedMatrix;
  output: QuantizedMatrix;
  postAttentionNorm: TensorBytes;
  gateUp: QuantizedMatrix;
  down: QuantizedMatrix;
}

/** A whole decoder, found in its ONNX graph. */
export interface DecoderWeights {
  layers: LayerWeights[];
  embedding: QuantizedMatrix;
  /** Absent when lm_head is the embedding's own bytes. */
  head: QuantizedMatrix | undefined;
  finalNorm: TensorBytes;
  /** f32 `[context, head_dim / 2]` each */
  cos: TensorBytes;
  sin: TensorBytes;
}

/**
 * Finds a decoder's weights in a graph as onnxruntime-genai's builder writes it for CPU int4 (Phi-3, Llama): fused
 * qkv_proj and gate_up_proj, embedding as GatherBlockQuantized.
 * @param files of the graph; the result reads from them
 * @throws {ModelFileError} naming the first node or tensor that is not as it has to be
 */
export function findDecoderWeights(model: OnnxModel, files: TensorFiles, config: ModelConfig): DecoderWeights {
  const tensors = new Map(model.graph.initializer.map((tensor) => [tensor.name, tensor]));
  const nodes = new Map(model.graph.node.map((node) => [node.name, node]));
  const { numHiddenLayers: layers, numAttentionHeads, numKeyValueHeads, headDim, hiddenSize, vocabSize } = config;

  const tensor = (name: string, elements: number): TensorBytes => {
    const found = tensors.get(name);
    const size = found?.dims.reduce((product, dim) => product * dim, 1);
    if (!found || size !== elements) {
      throw new ModelFileError(
        `Cannot use the graph: tensor ${name} ${found ? `is [${found.dims.join(", ")}]` : "is missing"}, ` +
          `wanted ${elements} elements`,
      );
    }
    return files.bytesOf(found);
  };
  const matrix = (inputs: readonly (string | undefined)[], bits: number, n: number, k: number): QuantizedMatrix => {
    if (bits !== 4 && bits !== 8) throw new ModelFileError(`Cannot use ${inputs[0]}: ${bits} bits, wanted 4 or 8`);
    const [qweight, scales, zeros] = inputs;
    const packed = zeros && tensors.get(zeros)?.dataType === DataType.UINT8;
    return {
      n,
      k,
      bits,
      qweight: tensor(qweight!, n * k * bits / 8),
      scales: tensor(scales!, n * k / 32),
      zeroPoints: zeros ? tensor(zeros, packed ? n * Math.ceil(k / 64) : n * k / 32) : undefined,
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
  };
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
