import type { ModelConfig } from "./model_config.ts";
import { onnxFile } from "./onnx_file.ts";
import { DataType, type OnnxGraph, type OnnxNode } from "./onnx_proto.ts";
import { readOnnx } from "./read_onnx.ts";

/** A module of the model: a named part with parts of its own, or an operation with its shape. */
interface Module {
  /** Such as `MatMulNBits(in=576, out=960, int4 in blocks of 32)`; empty for a part that only groups. */
  operation: string;
  children: Map<string, Module>;
}

/** Operators that carry no weights and only move numbers about; the tree leaves them out. */
const PLUMBING = new Set([
  "Cast",
  "Concat",
  "Constant",
  "Gather",
  "ReduceSum",
  "Reshape",
  "Shape",
  "Split",
  "Sub",
  "Unsqueeze",
]);

/** Parts that make masks and lengths, and small constants: no modules of the model. */
const HELPERS: ReadonlySet<string> = new Set(["attn_mask_reformat", "rope_caches_subgraph", "constant_nodes"]);

/**
 * The module tree of a model as its ONNX graph gives it, printed the way PyTorch prints a model:
 * names are the graph's own (`/model/layers.0/attn/qkv_proj/MatMulNBits`), layers that are alike are shown once.
 * @param folder the model folder; its graph is read, the weights are not
 * @throws {ModelFileError} when the graph cannot be read
 */
export function printModuleTree(folder: string, config: ModelConfig): string {
  const root: Module = { operation: "", children: new Map() };
  const { graph } = readOnnx(onnxFile(folder));
  const shapes = new Map(graph.initializer.map((tensor) => [tensor.name, tensor.dims]));
  for (const node of graph.node) addNode(root, node, graph, shapes);
  return `${config.architecture}(\n${printChildren(root, "  ")})`;
}

function addNode(root: Module, node: OnnxNode, graph: OnnxGraph, shapes: Map<string, number[]>): void {
  const path = node.name.split("/").filter(Boolean);
  if (path.some((part) => HELPERS.has(part))) return;
  if (PLUMBING.has(node.opType) && !path.some((part) => part.startsWith("embed_tokens"))) return;
  let module = root;
  for (const part of path.slice(0, -1)) {
    const next: Module = module.children.get(part) ?? { operation: "", children: new Map() };
    module.children.set(part, next);
    module = next;
  }
  const name = path.at(-1) ?? node.opType;
  module.children.set(name, { operation: describe(node, graph, shapes), children: new Map() });
}

function describe(node: OnnxNode, graph: OnnxGraph, shapes: Map<string, number[]>): string {
  const int = (name: string) => node.attribute.find((attribute) => attribute.name === name)?.i;
  const dims = node.input.map((input) => shapes.get(input)).find((shape) => shape !== undefined);
  switch (node.opType) {
    case "MatMulNBits":
      return `Linear(in=${int("K")}, out=${int("N")}, int${int("bits")} in blocks of ${int("block_size")})`;
    case "MatMul":
      return `Linear(in=${dims?.[0]}, out=${dims?.[1]}, ${elementType(graph, node)})`;
    case "GatherBlockQuantized":
      return `Embedding(${dims?.join(", ")}, int${int("bits") ?? 4} in blocks of ${int("block_size")})`;
    case "Gather":
      return `Embedding(${dims?.join(", ")}, ${elementType(graph, node)})`;
    case "GroupQueryAttention":
      return `GroupQueryAttention(heads=${int("num_heads")}, kv_heads=${int("kv_num_heads")}, ` +
        `rotary=${int("do_rotary") ? "inside" : "no"}, window=${window(int("local_window_size"))})`;
    case "MultiHeadAttention":
      return `MultiHeadAttention(heads=${int("num_heads")})`;
    case "SimplifiedLayerNormalization":
    case "SkipSimplifiedLayerNormalization":
      return `RMSNorm(${dims?.join(", ")})`;
    default:
      return node.opType;
  }
}

const window = (size: number | undefined) => size === undefined || size < 0 ? "all" : size;

function elementType(graph: OnnxGraph, node: OnnxNode): string {
  const type = graph.initializer.find((tensor) => node.input.includes(tensor.name))?.dataType;
  return Object.entries(DataType).find(([, value]) => value === type)?.[0].toLowerCase() ?? "?";
}

function printChildren(module: Module, indent: string): string {
  const lines: string[] = [];
  for (const { first, last, child } of mergeAlike(module)) {
    const count = last === undefined
      ? ""
      : ` ${Number(last.split(".").at(-1)) - Number(first.split(".").at(-1)) + 1} x`;
    const name = last === undefined ? first : `${first} to ${last}`;
    const body = child.children.size === 0
      ? child.operation
      : collapsed(child) ?? `(\n${printChildren(child, indent + "  ")}${indent})`;
    lines.push(`${indent}(${name}):${count} ${body}\n`);
  }
  return lines.join("");
}

/** A part whose only content is one operation is that operation. */
function collapsed(module: Module): string | undefined {
  const only = [...module.children.values()];
  return only.length === 1 && only[0]!.children.size === 0 ? only[0]!.operation : undefined;
}

/** Runs of numbered neighbours (`layers.1`, `layers.2`, …) with equal content become one entry. */
function mergeAlike(module: Module): { first: string; last?: string; child: Module }[] {
  const merged: { first: string; last?: string; child: Module; text: string }[] = [];
  for (const [name, child] of module.children) {
    const text = child.operation + printChildren(child, "");
    const previous = merged.at(-1);
    const stem = (s: string) => /^(.*\.)\d+$/.exec(s)?.[1];
    if (previous && previous.text === text && stem(name) !== undefined && stem(name) === stem(previous.first)) {
      previous.last = name;
    } else merged.push({ first: name, child, text });
  }
  return merged;
}
