import { ModelFileError } from "../../errors.ts";
import { integer, nodeName } from "../../model/graph_index.ts";
import { expandMatMulNBits } from "../../model/matmul_nbits.ts";
import { DataType, type OnnxNode } from "../../model/onnx_proto.ts";
import type { TensorBytes } from "../../model/tensor_bytes.ts";
import type { GpuGraph } from "./gpu_graph.ts";
import { bytesAs, type Constant, lazyBytes } from "./weight_source.ts";

/**
 * `MatMulNBits` whose zero points are floats becomes `MatMul` over its weights in f32: the WebGPU operator of
 * onnxruntime-web 1.30.0 takes packed zero points or none. Only small models come this way.
 */
export function expandFloatZeroPoints(graph: GpuGraph): void {
  graph.nodes = graph.nodes.map((node) => {
    const zeros = graph.tensors.get(node.input[3] ?? "");
    return node.opType === "MatMulNBits" && zeros && zeros.dataType !== DataType.UINT8 ? expanded(graph, node) : node;
  });
}

function expanded({ tensors, data }: GpuGraph, node: OnnxNode): OnnxNode {
  const [qweight, scales, zeroPoints] = node.input.slice(1, 4).map((name) => data.get(name));
  if (!qweight || !scales || !zeroPoints || node.input[4] || node.input[5]) {
    throw new ModelFileError(
      `Cannot expand node ${nodeName(node)}: wanted constant weights, no group index and no bias`,
    );
  }
  const inFeatures = integer(node, "K");
  const outFeatures = integer(node, "N");
  const name = `${node.input[1]}.f32`;
  const make = () => {
    const weights = expandMatMulNBits({
      inFeatures,
      outFeatures,
      bits: integer(node, "bits"),
      blockSize: integer(node, "block_size"),
      qweight: whole(qweight.bytes),
      scales: floats(scales),
      zeroPoints: floats(zeroPoints),
    });
    return new Uint8Array(weights.buffer);
  };
  tensors.set(name, { name, dataType: DataType.FLOAT, dims: [inFeatures, outFeatures] });
  data.set(name, { dataType: DataType.FLOAT, bytes: lazyBytes(4 * inFeatures * outFeatures, make) });
  return { ...node, opType: "MatMul", domain: "", input: [node.input[0]!, name], attribute: [] };
}

function whole(source: TensorBytes): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(source.length);
  source.read(0, bytes);
  return bytes;
}

function floats(constant: Constant): Float32Array<ArrayBuffer> {
  return new Float32Array(whole(bytesAs(DataType.FLOAT, constant, "")).buffer);
}
