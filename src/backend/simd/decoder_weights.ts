import type { DecoderGraph, LayerGraph } from "../../model/decoder_graph.ts";
import { asFloats, firstBytes } from "../../model/float_bytes.ts";
import type { QuantizedProduct } from "../../model/graph_reader.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { DataType, type OnnxTensor } from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";
import { joinRows, type QuantizedMatrix, type Table } from "./quantized_matrix.ts";

/** Weights of one layer. Vectors are f32. */
export interface LayerWeights {
  inputNorm: TensorBytes;
  qkv: QuantizedMatrix;
  output: QuantizedMatrix;
  postAttentionNorm: TensorBytes;
  gateUp: QuantizedMatrix;
  down: QuantizedMatrix;
}

/** The weights of a whole decoder, where they are to be read. */
export interface DecoderWeights {
  layers: LayerWeights[];
  embedding: QuantizedMatrix | Table;
  /** Absent when lm_head is the embedding's own bytes. */
  head: QuantizedMatrix | undefined;
  finalNorm: TensorBytes;
  epsilon: number;
  /** Numbers of each head that are turned, the first ones. */
  rotaryDim: number;
  /** f32 `[context, rotary_dim / 2]` each */
  cos: TensorBytes;
  sin: TensorBytes;
  /** Tokens that a query looks back on, itself included; absent when it sees all. */
  window: number | undefined;
}

/**
 * Finds the weights of a decoder in its files, whatever layout it has.
 * @param files of the graph; the result reads from them
 * @throws {ModelFileError} when a tensor's bytes are not where they have to be
 */
export function findDecoderWeights(graph: DecoderGraph, files: TensorFiles, config: ModelConfig): DecoderWeights {
  const floats = (tensor: OnnxTensor) => asFloats(tensor, files.bytesOf(tensor));
  const matrix = ({ n, k, bits, qweight, scales, zeroPoints }: QuantizedProduct): QuantizedMatrix => ({
    n,
    k,
    bits,
    qweight: files.bytesOf(qweight),
    scales: floats(scales),
    // Packed ones are u8 and stay so.
    zeroPoints: zeroPoints && floats(zeroPoints),
  });
  const joined = (products: readonly QuantizedProduct[]) => joinRows(products.map(matrix));
  const layer = ({ inputNorm, attention, output, postAttentionNorm, gateUp, down }: LayerGraph): LayerWeights => ({
    inputNorm: floats(inputNorm),
    qkv: joined(attention.qkv),
    output: matrix(output),
    postAttentionNorm: floats(postAttentionNorm),
    gateUp: joined(gateUp),
    down: matrix(down),
  });
  const { embedding, rotary } = graph;
  const angles = (tensor: OnnxTensor) => firstBytes(floats(tensor), config.contextLength * rotary.dim / 2 * 4);
  return {
    layers: graph.layers.map(layer),
    embedding: "node" in embedding ? matrix(embedding) : {
      n: config.vocabSize,
      k: config.hiddenSize,
      values: files.bytesOf(embedding),
      half: embedding.dataType === DataType.FLOAT16,
    },
    head: graph.tied ? undefined : matrix(graph.head),
    finalNorm: floats(graph.finalNorm),
    epsilon: graph.epsilon,
    rotaryDim: rotary.dim,
    cos: angles(rotary.cos),
    sin: angles(rotary.sin),
    window: graph.window,
  };
}
