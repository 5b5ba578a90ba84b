import type { ModelConfig } from "../../model/model_config.ts";
import type { OnnxModel } from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";
import { GraphWeights } from "./graph_weights.ts";
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

/** A whole decoder, found in its ONNX graph. */
export interface DecoderWeights {
  layers: LayerWeights[];
  embedding: QuantizedMatrix | Table;
  /** Absent when lm_head is the embedding's own bytes. */
  head: QuantizedMatrix | undefined;
  finalNorm: TensorBytes;
  /** f32 `[context, head_dim / 2]` each */
  cos: TensorBytes;
  sin: TensorBytes;
  /** Tokens that a query looks back on, itself included; absent when it sees all. */
  window: number | undefined;
}

/**
 * Finds a decoder's weights in a graph as onnxruntime-genai's builder writes it for CPU int4 (Phi-3, Llama), with
 * projections fused or apart. Where the graph and `config.json` differ the graph is right: it is what other runtimes run.
 * @param files of the graph; the result reads from them
 * @throws {ModelFileError} naming the first node or tensor that is not as it has to be
 */
export function findDecoderWeights(model: OnnxModel, files: TensorFiles, config: ModelConfig): DecoderWeights {
  const graph = new GraphWeights(model, files);
  const { numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim, hiddenSize, intermediateSize } = config;
  const [queries, keys] = [numAttentionHeads * headDim, numKeyValueHeads * headDim];
  const layer = (i: number): LayerWeights => {
    const [attention, mlp] = [`/model/layers.${i}/attn`, `/model/layers.${i}/mlp`];
    return {
      inputNorm: graph.vector(`model.layers.${i}.input_layernorm.weight`, hiddenSize),
      qkv: graph.fused(`${attention}/qkv_proj`, queries + 2 * keys, hiddenSize) ??
        joinRows([
          graph.matMul(`${attention}/q_proj`, queries, hiddenSize),
          graph.matMul(`${attention}/k_proj`, keys, hiddenSize),
          graph.matMul(`${attention}/v_proj`, keys, hiddenSize),
        ]),
      output: graph.matMul(`${attention}/o_proj`, hiddenSize, queries),
      postAttentionNorm: graph.vector(`model.layers.${i}.post_attention_layernorm.weight`, hiddenSize),
      gateUp: graph.fused(`${mlp}/gate_up_proj`, 2 * intermediateSize, hiddenSize) ??
        joinRows([
          graph.matMul(`${mlp}/gate_proj`, intermediateSize, hiddenSize),
          graph.matMul(`${mlp}/up_proj`, intermediateSize, hiddenSize),
        ]),
      down: graph.matMul(`${mlp}/down_proj`, hiddenSize, intermediateSize),
    };
  };
  const { embedding, tied } = graph.embedding(config);
  return {
    layers: Array.from({ length: numHiddenLayers }, (_, i) => layer(i)),
    embedding,
    head: tied ? undefined : graph.matMul("/lm_head", config.vocabSize, hiddenSize),
    finalNorm: graph.vector(`model.layers.${numHiddenLayers}.final_norm_layernorm.weight`, hiddenSize),
    cos: graph.vector("cos_cache", config.contextLength * headDim / 2),
    sin: graph.vector("sin_cache", config.contextLength * headDim / 2),
    window: graph.window(),
  };
}
