import { ModelFileError } from "../../errors.ts";
import { integer, nodeName } from "../../model/graph_index.ts";
import { intAttribute, type OnnxNode } from "../../model/onnx_proto.ts";
import type { GpuGraph } from "./gpu_graph.ts";
import { sliceOf } from "./weight_source.ts";

/** A product that a `Split` takes apart becomes two: the operator would copy both halves in every pass. */
export function splitProducts(graph: GpuGraph): void {
  const producers = new Map(graph.nodes.flatMap((node) => node.output.map((name) => [name, node] as const)));
  const replaced = new Map<OnnxNode, OnnxNode[]>();
  for (const split of graph.nodes.filter(({ opType }) => opType === "Split")) {
    const product = producers.get(split.input[0]!);
    if (product?.opType !== "MatMulNBits" || split.output.length !== 2) continue;
    const rows = integer(product, "N") / 2;
    replaced.set(product, []);
    replaced.set(
      split,
      split.output.map((output, half) => ({
        ...product,
        name: `${product.name}/${half}`,
        input: product.input.map((name, i) => i === 0 || name === "" ? name : halfRows(graph, product, name, half)),
        output: [output],
        attribute: product.attribute.map((item) => item.name === "N" ? intAttribute("N", rows) : item),
      })),
    );
  }
  graph.nodes = graph.nodes.flatMap((node) => replaced.get(node) ?? [node]);
}

/** The first or second half of a constant of `product`, whose outermost dimension is the outputs. */
function halfRows({ tensors, data }: GpuGraph, product: OnnxNode, name: string, half: number): string {
  const tensor = tensors.get(name);
  const constant = data.get(name);
  if (!tensor || !constant || tensor.dims[0]! % 2 !== 0) {
    throw new ModelFileError(
      `Cannot split node ${nodeName(product)}: ${name} is ${tensor ? `[${tensor.dims}]` : "no constant"}, ` +
        "wanted a constant of an even number of rows",
    );
  }
  const { dataType, bytes } = constant;
  const named = `${name}.${half}`;
  tensors.set(named, { ...tensor, name: named, dims: [tensor.dims[0]! / 2, ...tensor.dims.slice(1)] });
  data.set(named, { dataType, bytes: sliceOf(bytes, half * bytes.length / 2, bytes.length / 2) });
  return named;
}
