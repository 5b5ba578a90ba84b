import { DataType, intAttribute, type OnnxModel, type OnnxNode, type OnnxValueInfo } from "../../model/onnx_proto.ts";

/**
 * Makes an f16 graph one of f32, where the runtime computes in f32 anyway: types of inputs, outputs, Casts and
 * initializers. The initializers' bytes are the caller's to widen, see `asFloats`. After `fuseAttention` and `fixRotary`
 * no other f16 constant is left.
 */
export function widenHalf(model: OnnxModel): OnnxModel {
  const { graph } = model;
  return {
    ...model,
    graph: {
      ...graph,
      input: graph.input.map(widenValue),
      output: graph.output.map(widenValue),
      node: graph.node.map(widenCast),
      initializer: graph.initializer.map((tensor) =>
        tensor.dataType === DataType.FLOAT16 ? { ...tensor, dataType: DataType.FLOAT } : tensor
      ),
    },
  };
}

function widenValue(value: OnnxValueInfo): OnnxValueInfo {
  const tensorType = value.type?.tensorType;
  if (tensorType?.elemType !== DataType.FLOAT16) return value;
  return { ...value, type: { tensorType: { ...tensorType, elemType: DataType.FLOAT } } };
}

function widenCast(node: OnnxNode): OnnxNode {
  const to = node.opType === "Cast" ? node.attribute.find(({ name }) => name === "to")?.i : undefined;
  return to === DataType.FLOAT16 ? { ...node, attribute: [intAttribute("to", DataType.FLOAT)] } : node;
}
