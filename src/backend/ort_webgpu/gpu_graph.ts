import type { DecoderGraph } from "../../model/decoder_graph.ts";
import {
  DataType,
  intAttribute,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  type OnnxValueInfo,
  tensorValueInfo,
} from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";
import { fixRotary } from "../ort/fix_rotary.ts";
import { fuseAttention } from "../ort/fuse_attention.ts";
import { pickPositions } from "../ort/pick_positions.ts";
import { pruneGraph } from "../ort/prune_graph.ts";
import { shapeEmbedding } from "../ort/shape_embedding.ts";
import { widenHalf } from "../ort/widen_half.ts";
import { encodeGpuGraph } from "./encode_gpu_graph.ts";
import { expandFloatZeroPoints } from "./expand_weights.ts";
import { packProjections } from "./pack_projections.ts";
import { splitProducts } from "./split_products.ts";
import { bytesAs, type Constant } from "./weight_source.ts";

/** Inputs of the rewritten graph, beside `input_ids`, the past and `logits_positions`: int32 `[1]` each. */
export const SEQLENS_K = "seqlens_k";
export const TOTAL_LENGTH = "total_sequence_length";

/** Tables that turn queries and keys to their positions, inputs too: `[positions, rotary_dim / 2]` in `half` or f32. */
export interface RotaryTables {
  cos: { name: string; bytes: TensorBytes };
  sin: { name: string; bytes: TensorBytes };
  dims: number[];
}

/**
 * A graph that is being rewritten: constants are tensors without data, and `data` has each by name as the file has it,
 * f16 where the tensor says f32 or the other way round.
 */
export interface GpuGraph {
  nodes: OnnxNode[];
  tensors: Map<string, OnnxTensor>;
  data: Map<string, Constant>;
  inputs: OnnxValueInfo[];
  outputs: OnnxValueInfo[];
}

/** A model ready for onnxruntime's WebGPU: weights by the location that the graph gives them. */
export interface GpuModel {
  graph: Uint8Array;
  weights: Map<string, TensorBytes>;
  /** Name of the last hidden state, an output: `[1, tokens, hidden_size]` in `half` or f32. */
  hiddenStates: string;
  rotary: RotaryTables;
}

/** Options of {@linkcode rewriteForGpu}. */
export interface GpuGraphOptions {
  /** Weights, activations and KV are f16; logits stay f32. */
  half: boolean;
  /** `"int8"` leaves it to the file whether products may round their activations. */
  activations: "f32" | "int8";
}

/**
 * Makes a decoder graph one that runs on the GPU alone, step by step the same arithmetic: attention is
 * GroupQueryAttention and has its lengths as inputs instead of a mask that the CPU makes, q, k and v are one product, gate and up
 * are two, lm_head sees the wanted positions only, no product rounds its activations to int8 unless it may, and everything but
 * lm_head is f16 where wanted, whatever the file has.
 * @param decoder what `original` was read as
 * @param files where the weights are read from when onnxruntime asks for them: to be open until then
 * @throws {ModelFileError} when the weights' files are damaged
 */
export function rewriteForGpu(
  original: OnnxModel,
  decoder: DecoderGraph,
  files: TensorFiles,
  { half, activations }: GpuGraphOptions,
): GpuModel {
  const fused = shapeEmbedding(fixRotary(fuseAttention(original, decoder), decoder), decoder);
  const bare = pruneGraph(lengthsAsInputs(fused));
  const { graph: { node, initializer, input, output } } = pickPositions(widenHalf(bare), decoder);
  const graph: GpuGraph = {
    nodes: node,
    tensors: new Map(initializer.map((tensor) => [tensor.name, tensor])),
    data: new Map(
      bare.graph.initializer.filter(isWeight).map((tensor) => [tensor.name, {
        dataType: tensor.dataType,
        bytes: files.bytesOf(tensor),
      }]),
    ),
    inputs: input,
    outputs: output,
  };
  expandFloatZeroPoints(graph);
  splitProducts(graph);
  packProjections(graph);
  if (activations === "f32") keepActivations(graph);
  if (half) halve(graph);
  const rotary = rotaryAsInputs(graph, decoder);
  return { ...encodeGpuGraph(original, graph), hiddenStates: decoder.hiddenStates, rotary };
}

/** Integers are shapes and axes, which the runtime reads on the CPU: they stay in the graph. */
function isWeight({ dataType }: OnnxTensor): boolean {
  return dataType === DataType.FLOAT || dataType === DataType.FLOAT16 || dataType === DataType.UINT8;
}

/** Gives attention its lengths as inputs: nobody reads then what computed them from `attention_mask`. */
function lengthsAsInputs({ graph, ...rest }: OnnxModel): OnnxModel {
  const lengths = new Map([[5, SEQLENS_K], [6, TOTAL_LENGTH]]);
  return {
    ...rest,
    graph: {
      ...graph,
      node: graph.node.map((node) =>
        node.opType === "GroupQueryAttention"
          ? { ...node, input: node.input.map((name, i) => lengths.get(i) ?? name) }
          : node
      ),
      input: [...graph.input, ...[...lengths.values()].map((name) => tensorValueInfo(name, DataType.INT32, [1]))],
    },
  };
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

/**
 * f32 becomes f16, but for lm_head: its input is brought back to f32, because neighbouring logits of 20 or so are the
 * same f16.
 */
function halve(graph: GpuGraph): void {
  const { tensors, data } = graph;
  const head = graph.nodes.find(({ output }) => output[0] === "logits")!;
  const [picked = "", ...constants] = head.input;
  const kept = new Set(constants);
  for (const [name, tensor] of [...tensors]) {
    if (tensor.dataType !== DataType.FLOAT || !data.has(name)) continue;
    const half = kept.has(name) ? `${name}.f16` : name;
    tensors.set(half, { ...tensor, name: half, dataType: DataType.FLOAT16 });
    data.set(half, data.get(name)!);
  }
  const cast: OnnxNode = {
    name: "/lm_head/cast",
    opType: "Cast",
    input: [picked],
    output: [`${picked}/f32`],
    attribute: [intAttribute("to", DataType.FLOAT)],
  };
  graph.nodes = graph.nodes.flatMap((node) =>
    node === head
      ? [cast, { ...head, input: [`${picked}/f32`, ...constants] }]
      // A tied embedding reads lm_head's own scales.
      : [{
        ...node,
        input: node.input.map((name) => kept.has(name) && tensors.has(`${name}.f16`) ? `${name}.f16` : name),
      }]
  );
  const toHalf = (info: OnnxValueInfo): OnnxValueInfo => {
    const { elemType, shape } = info.type?.tensorType ?? {};
    if (elemType !== DataType.FLOAT || info.name === "logits") return info;
    return { ...info, type: { tensorType: { elemType: DataType.FLOAT16, shape } } };
  };
  graph.inputs = graph.inputs.map(toHalf);
  graph.outputs = graph.outputs.map(toHalf);
}

/** Makes inputs of the rotary tables, which a window of decode needs in another order. */
function rotaryAsInputs({ tensors, data, inputs }: GpuGraph, { layers }: DecoderGraph): RotaryTables {
  const { cos, sin } = layers[0]!.attention;
  const { dims } = tensors.get(cos)!;
  const take = (name: string) => {
    const { dataType } = tensors.get(name)!;
    tensors.delete(name);
    inputs.push(tensorValueInfo(name, dataType, dims));
    return { name, bytes: bytesAs(dataType, data.get(name)!, name) };
  };
  return { cos: take(cos), sin: take(sin), dims };
}
