import type { DecoderGraph } from "../../model/decoder_graph.ts";
import type { OnnxModel } from "../../model/onnx_proto.ts";

/**
 * A tied embedding reads lm_head's weights through a Reshape, which onnxruntime computes as it loads, all of it in its
 * heap: here it gets a constant of that shape, the same bytes. Other graphs stay as they are.
 * @param decoder what `model` was read as
 */
export function shapeEmbedding(model: OnnxModel, { embedding }: DecoderGraph): OnnxModel {
  const [name = ""] = "node" in embedding ? embedding.node.input : [];
  if (!("node" in embedding) || name === embedding.qweight.name) return model;
  const { qweight, n, k, bits } = embedding;
  const { graph } = model;
  return {
    ...model,
    graph: {
      ...graph,
      node: graph.node.filter(({ output }) => output[0] !== name),
      initializer: [...graph.initializer, { ...qweight, name, dims: [n, k * bits / 8] }],
    },
  };
}
