import { ModelFileError } from "../../errors.ts";
import { tensorByteLength } from "../../model/external_tensor.ts";
import {
  DataLocation,
  DataType,
  encodeModel,
  intAttribute,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
  tensorValueInfo,
} from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";
import { expandFloatZeroPoints } from "./expand_weights.ts";
import { integer } from "./integer_attribute.ts";
import { halfOf, sliceOf } from "./weight_source.ts";

/** Inputs of the rewritten graph, beside `input_ids` and the past: int32 `[1]` each, and int64 `[positions]`. */
export const SEQLENS_K = "seqlens_k";
export const TOTAL_LENGTH = "total_sequence_length";
export const LOGITS_POSITIONS = "logits_positions";

/** Tables that turn queries and keys to their positions, inputs too: `[positions, head_dim / 2]` in `half` or f32. */
export interface RotaryTables {
  cos: { name: string; bytes: TensorBytes };
  sin: { name: string; bytes: TensorBytes };
  dims: number[];
}

/** A graph that is being rewritten: constants are tensors without data, and `data` has the bytes of each by name. */
export interface GpuGraph {
  nodes: OnnxNode[];
  tensors: Map<string, OnnxTensor>;
  data: Map<string, TensorBytes>;
  inputs: OnnxValueInfo[];
  outputs: OnnxValueInfo[];
}

/** A model ready for onnxruntime's WebGPU: weights by the name that the graph calls their place. */
export interface GpuModel {
  graph: Uint8Array;
  weights: Map<string, TensorBytes>;
  /** Name of the last hidden state, an output: `[1, tokens, hidden_size]` in `half` or f32. */
  hiddenStates: string;
  /** Tokens that attention looks back on, the query included; `undefined` for all. */
  window: number | undefined;
  /** `undefined` where attention does not turn them itself. */
  rotary: RotaryTables | undefined;
}

/** Options of {@linkcode rewriteForGpu}. */
export interface GpuGraphOptions {
  /** Weights, activations and KV are f16; logits stay f32. */
  half: boolean;
  /** `"int8"` leaves it to the file whether products may round their activations. */
  activations: "f32" | "int8";
}

/**
 * Makes a decoder graph one that runs on the GPU alone, step by step the same arithmetic: lengths come in instead of a
 * mask whose shape the CPU looks at, gate and up are two products, lm_head sees the wanted positions only, no product
 * rounds its activations to int8 unless it may, and everything but lm_head is f16 where wanted.
 * @param files where the weights are read from when onnxruntime asks for them: to be open until then
 * @throws {ModelFileError} when the graph is not a decoder of this kind
 */
export function rewriteForGpu(model: OnnxModel, files: TensorFiles, { half, activations }: GpuGraphOptions): GpuModel {
  const graph: GpuGraph = {
    nodes: [...model.graph.node],
    tensors: new Map(model.graph.initializer.map((tensor) => [tensor.name, tensor])),
    data: new Map(),
    inputs: [...model.graph.input],
    outputs: [...model.graph.output],
  };
  for (const tensor of graph.tensors.values()) {
    if (isWeight(tensor)) graph.data.set(tensor.name, files.bytesOf(tensor));
  }
  const window = takeLengths(graph);
  expandFloatZeroPoints(graph);
  splitProducts(graph);
  if (activations === "f32") keepActivations(graph);
  const hiddenStates = pickPositions(graph);
  if (half) halve(graph);
  dropUnused(graph);
  const rotary = rotaryAsInputs(graph, half);
  return { ...encode(model, graph), hiddenStates, window, rotary };
}

/** Integers are shapes and axes, which the runtime reads on the CPU: they stay in the graph. */
function isWeight({ dataType }: OnnxTensor): boolean {
  return dataType === DataType.FLOAT || dataType === DataType.FLOAT16 || dataType === DataType.UINT8;
}

/**
 * Gives attention its lengths as inputs: what computed them from `attention_mask` is then unused.
 * @returns the window of attention, if it has one
 */
function takeLengths(graph: GpuGraph): number | undefined {
  const attentions = graph.nodes.filter(({ opType }) => opType === "GroupQueryAttention");
  if (attentions.length === 0) {
    throw new ModelFileError("Cannot use the graph: it has no GroupQueryAttention, wanted one a layer");
  }
  graph.nodes = graph.nodes.map((node) =>
    attentions.includes(node)
      ? { ...node, input: node.input.map((name, i) => i === 5 ? SEQLENS_K : i === 6 ? TOTAL_LENGTH : name) }
      : node
  );
  graph.inputs = graph.inputs.filter(({ name }) => name !== "attention_mask");
  graph.inputs.push(
    tensorValueInfo(SEQLENS_K, DataType.INT32, [1]),
    tensorValueInfo(TOTAL_LENGTH, DataType.INT32, [1]),
  );
  const windows = new Set(attentions.map((node) => integer(node, "local_window_size", -1)));
  if (windows.size > 1) throw new ModelFileError("Cannot use the graph: its layers have different windows, wanted one");
  const [window = -1] = windows;
  return window > 0 ? window : undefined;
}

/** A product that a `Split` takes apart becomes two: the operator would copy both halves in every pass. */
function splitProducts(graph: GpuGraph): void {
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
        input: product.input.map((name, i) => i === 0 || name === "" ? name : halfRows(graph, name, half)),
        output: [output],
        attribute: product.attribute.map((item) => item.name === "N" ? intAttribute("N", rows) : item),
      })),
    );
  }
  graph.nodes = graph.nodes.flatMap((node) => replaced.get(node) ?? [node]);
}

/** The first or second half of a constant whose outermost dimension is the outputs. */
function halfRows({ tensors, data }: GpuGraph, name: string, half: number): string {
  const tensor = tensors.get(name);
  const bytes = data.get(name);
  if (!tensor || !bytes || tensor.dims[0]! % 2 !== 0) {
    throw new ModelFileError(`Cannot split ${name}: wanted a constant of an even number of rows`);
  }
  const half2 = `${name}.${half}`;
  tensors.set(half2, { ...tensor, name: half2, dims: [tensor.dims[0]! / 2, ...tensor.dims.slice(1)] });
  data.set(half2, sliceOf(bytes, half * bytes.length / 2, bytes.length / 2));
  return half2;
}

/**
 * `accuracy_level` 4 lets a kernel round activations to int8, and onnxruntime's does so where the device has subgroups: in
 * f32 the same graph then gives other tokens on Dawn, which has them, than on wgpu, which has not.
 * https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/webgpu/quantization/dp4a_matmul_nbits.cc
 */
function keepActivations(graph: GpuGraph): void {
  graph.nodes = graph.nodes.map((node) =>
    node.opType !== "MatMulNBits" ? node : {
      ...node,
      attribute: [...node.attribute.filter(({ name }) => name !== "accuracy_level"), intAttribute("accuracy_level", 0)],
    }
  );
}

const PICKED = "/lm_head/positions/output_0";

/** lm_head gets the positions that are asked for. @returns the name of the last hidden states, now an output */
function pickPositions(graph: GpuGraph): string {
  const head = headOf(graph);
  const hiddenStates = head.input[0]!;
  const gather: OnnxNode = {
    name: "/lm_head/positions",
    opType: "Gather",
    input: [hiddenStates, LOGITS_POSITIONS],
    output: [PICKED],
    attribute: [intAttribute("axis", 1)],
  };
  const picked = { ...head, input: [PICKED, ...head.input.slice(1)] };
  graph.nodes = graph.nodes.flatMap((node) => node === head ? [gather, picked] : [node]);
  graph.inputs.push(tensorValueInfo(LOGITS_POSITIONS, DataType.INT64, ["positions"]));
  graph.outputs = graph.outputs.map((output) =>
    output.name === "logits" ? tensorValueInfo("logits", DataType.FLOAT, ["batch_size", "positions", "vocab"]) : output
  );
  graph.outputs.push(tensorValueInfo(hiddenStates, DataType.FLOAT, ["batch_size", "sequence_length", "hidden_size"]));
  return hiddenStates;
}

function headOf({ nodes }: GpuGraph): OnnxNode {
  const head = nodes.find(({ output }) => output.includes("logits"));
  if (head?.opType === "MatMulNBits" || head?.opType === "MatMul") return head;
  throw new ModelFileError(
    `Cannot use the graph: logits come from ${head ? `${head.opType} ${head.name}` : "no node"}, ` +
      "wanted MatMulNBits or MatMul",
  );
}

/**
 * f32 becomes f16, but for lm_head: its input is brought back to f32, because neighbouring logits of 20 or so are the
 * same f16.
 */
function halve(graph: GpuGraph): void {
  const head = headOf(graph);
  const kept = new Set(head.input.slice(1));
  for (const [name, tensor] of [...graph.tensors]) {
    const bytes = graph.data.get(name);
    if (tensor.dataType !== DataType.FLOAT || !bytes || kept.has(name)) continue;
    graph.tensors.set(name, { ...tensor, dataType: DataType.FLOAT16 });
    graph.data.set(name, halfOf(bytes, name));
  }
  const cast: OnnxNode = {
    name: "/lm_head/cast",
    opType: "Cast",
    input: [PICKED],
    output: [`${PICKED}/f32`],
    attribute: [intAttribute("to", DataType.FLOAT)],
  };
  const input = [`${PICKED}/f32`, ...head.input.slice(1)];
  graph.nodes = graph.nodes.flatMap((node) => node === head ? [cast, { ...head, input }] : [node]);
  const toHalf = (info: OnnxValueInfo): OnnxValueInfo => {
    const { elemType, shape } = info.type?.tensorType ?? {};
    if (elemType !== DataType.FLOAT || info.name === "logits") return info;
    return { ...info, type: { tensorType: { elemType: DataType.FLOAT16, shape } } };
  };
  graph.inputs = graph.inputs.map(toHalf);
  graph.outputs = graph.outputs.map(toHalf);
}

/** Makes inputs of the rotary tables, which a window of decode needs in another order. */
function rotaryAsInputs(graph: GpuGraph, half: boolean): RotaryTables | undefined {
  const attentions = graph.nodes.filter(({ opType }) => opType === "GroupQueryAttention");
  const [cosName = "", sinName = ""] = attentions[0]!.input.slice(7, 9);
  const tensor = graph.tensors.get(cosName);
  const [cos, sin] = [graph.data.get(cosName), graph.data.get(sinName)];
  if (!tensor || !cos || !sin || attentions.some(({ input }) => input[7] !== cosName || input[8] !== sinName)) {
    return undefined;
  }
  for (const name of [cosName, sinName]) {
    graph.tensors.delete(name);
    graph.inputs.push(tensorValueInfo(name, half ? DataType.FLOAT16 : DataType.FLOAT, tensor.dims));
  }
  return { cos: { name: cosName, bytes: cos }, sin: { name: sinName, bytes: sin }, dims: tensor.dims };
}

/** Drops nodes that lead to no output, and constants that no node reads. */
function dropUnused(graph: GpuGraph): void {
  const wanted = new Set(graph.outputs.map(({ name }) => name));
  // Nodes are in topological order: from the last on, who reads a value has been seen before who makes it.
  graph.nodes = graph.nodes.toReversed().filter((node) => {
    if (!node.output.some((name) => wanted.has(name))) return false;
    for (const name of node.input) wanted.add(name);
    return true;
  }).reverse();
  for (const name of [...graph.tensors.keys()]) if (!wanted.has(name)) graph.tensors.delete(name);
}

/** Weights go out of the graph: onnxruntime asks for each by the name of its place. */
function encode(
  model: OnnxModel,
  { nodes, tensors, data, inputs, outputs }: GpuGraph,
): Pick<GpuModel, "graph" | "weights"> {
  const weights = new Map<string, TensorBytes>();
  const initializer = [...tensors.values()].map((tensor) => {
    const bytes = data.get(tensor.name);
    if (!bytes) return tensor;
    if (bytes.length !== tensorByteLength(tensor)) {
      throw new ModelFileError(`Cannot use tensor ${tensor.name}: ${bytes.length} bytes for [${tensor.dims}]`);
    }
    weights.set(tensor.name, bytes);
    const { name, dims, dataType } = tensor;
    const externalData = [
      { key: "location", value: name },
      { key: "offset", value: "0" },
      { key: "length", value: String(bytes.length) },
    ];
    return { name, dims, dataType, dataLocation: DataLocation.EXTERNAL, externalData };
  });
  const graph = encodeModel({
    ...model,
    // Types of inner values are those of before.
    graph: { ...model.graph, node: nodes, initializer, input: inputs, output: outputs, valueInfo: [] },
  });
  return { graph, weights };
}
