import { integer } from "../../model/graph_index.ts";
import { intAttribute, type OnnxNode, type OnnxTensor } from "../../model/onnx_proto.ts";
import type { GpuGraph } from "./gpu_graph.ts";
import { joinOf } from "./weight_source.ts";

/**
 * Attention's products of q, k and v become one where they are alike, as onnxruntime-genai has them: a step of decode is
 * then 8 kernels a layer in place of 11, and most of its time is their number.
 */
export function packProjections(graph: GpuGraph): void {
  const producers = new Map(graph.nodes.map((node) => [node.output[0], node]));
  const replaced = new Map<OnnxNode, OnnxNode[]>();
  for (const attention of graph.nodes.filter(({ opType }) => opType === "GroupQueryAttention")) {
    const products = attention.input.slice(0, 3).flatMap((name) => producers.get(name) ?? []);
    const packed = products.length === 3 ? pack(graph, products) : undefined;
    if (!packed) continue;
    for (const product of products) replaced.set(product, product === products[0] ? [packed] : []);
    replaced.set(attention, [{ ...attention, input: [packed.output[0]!, "", "", ...attention.input.slice(3)] }]);
  }
  graph.nodes = graph.nodes.flatMap((node) => replaced.get(node) ?? [node]);
}

/** One product with the rows of all, one after the other; `undefined` where they are not alike. */
function pack(graph: GpuGraph, products: readonly OnnxNode[]): OnnxNode | undefined {
  const [first] = products;
  if (!first || !products.every((node) => isLike(node, first))) return undefined;
  const constants: string[] = [];
  for (let i = 1; i < first.input.length; i++) {
    const names = products.map(({ input }) => input[i] ?? "");
    const joined = names.every((name) => name === "") ? "" : joinRows(graph, names);
    if (joined === undefined) return undefined;
    constants.push(joined);
  }
  const rows = products.reduce((sum, node) => sum + integer(node, "N"), 0);
  return {
    ...first,
    name: `${first.name}/qkv`,
    input: [first.input[0]!, ...constants],
    output: [`${first.output[0]}/qkv`],
    attribute: first.attribute.map((item) => item.name === "N" ? intAttribute("N", rows) : item),
  };
}

function isLike(node: OnnxNode, first: OnnxNode): boolean {
  const same = (name: string) => integer(node, name, -1) === integer(first, name, -1);
  return node.opType === "MatMulNBits" && node.input[0] === first.input[0] &&
    node.input.length === first.input.length && ["K", "bits", "block_size", "accuracy_level"].every(same);
}

/** A constant of the rows of others, if all are constants of the same kind of rows. */
function joinRows({ tensors, data }: GpuGraph, names: readonly string[]): string | undefined {
  const parts = names.map((name) => ({ tensor: tensors.get(name), constant: data.get(name) }));
  const [first] = parts;
  if (!first?.tensor || !first.constant) return undefined;
  const kind = ({ dims, dataType }: OnnxTensor) => [dataType, ...dims.slice(1)].join();
  const bytes = parts.flatMap(({ tensor, constant }) =>
    tensor && kind(tensor) === kind(first.tensor!) && constant?.dataType === first.constant!.dataType
      ? [constant.bytes]
      : []
  );
  if (bytes.length < parts.length) return undefined;
  const name = `${names[0]}.qkv`;
  const rows = parts.reduce((sum, { tensor }) => sum + tensor!.dims[0]!, 0);
  tensors.set(name, { ...first.tensor, name, dims: [rows, ...first.tensor.dims.slice(1)] });
  data.set(name, { dataType: first.constant.dataType, bytes: joinOf(bytes) });
  return name;
}
