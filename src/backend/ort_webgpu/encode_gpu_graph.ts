import { ModelFileError } from "../../errors.ts";
import { tensorByteLength } from "../../model/external_tensor.ts";
import { DataLocation, encodeModel, type OnnxModel } from "../../model/onnx_proto.ts";
import type { TensorBytes } from "../../model/tensor_bytes.ts";
import { pruneGraph } from "../ort/prune_graph.ts";
import type { GpuGraph, GpuModel } from "./gpu_graph.ts";
import { bytesAs } from "./weight_source.ts";

/**
 * What is still read of a graph, as an `.onnx` file. Weights go out of it: onnxruntime asks for each by its location,
 * and gets it in the type that the graph says.
 * @param model whose operator sets the graph has
 * @throws {ModelFileError} when a weight is not as long as its shape takes
 */
export function encodeGpuGraph(
  model: OnnxModel,
  { nodes, tensors, data, inputs, outputs }: GpuGraph,
): Pick<GpuModel, "graph" | "weights"> {
  const initializer = [...tensors.values()];
  const pruned = pruneGraph({
    ...model,
    graph: { ...model.graph, node: nodes, initializer, input: inputs, output: outputs },
  });
  const weights = new Map<string, TensorBytes>();
  const described = pruned.graph.initializer.map((tensor) => {
    const { name, dims, dataType } = tensor;
    const constant = data.get(name);
    if (!constant) return tensor;
    const bytes = bytesAs(dataType, constant, name);
    if (bytes.length !== tensorByteLength(tensor)) {
      throw new ModelFileError(`Cannot use tensor ${name}: ${bytes.length} bytes for [${dims}]`);
    }
    // Not the tensor's name: onnxruntime takes a location for a path, and refuses those that lead elsewhere.
    const location = `weights_${weights.size}`;
    weights.set(location, bytes);
    const externalData = [
      { key: "location", value: location },
      { key: "offset", value: "0" },
      { key: "length", value: String(bytes.length) },
    ];
    return { name, dims, dataType, dataLocation: DataLocation.EXTERNAL, externalData };
  });
  const graph = encodeModel({ ...pruned, graph: { ...pruned.graph, initializer: described } });
  return { graph, weights };
}
