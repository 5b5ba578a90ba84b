import { ModelFileError } from "../../errors.ts";
import type { DecoderGraph } from "../../model/decoder_graph.ts";
import { tensorByteLength } from "../../model/external_tensor.ts";
import { asFloats } from "../../model/float_bytes.ts";
import { integer, nodeName } from "../../model/graph_index.ts";
import { BLOCK_SIZE, type QuantizedProduct } from "../../model/graph_reader.ts";
import { expandMatMulNBits } from "../../model/matmul_nbits.ts";
import {
  DataLocation,
  DataType,
  encodeModel,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
} from "../../model/onnx_proto.ts";
import { TensorFiles } from "../../model/tensor_bytes.ts";
import { fixRotary } from "../ort/fix_rotary.ts";
import { fuseAttention } from "../ort/fuse_attention.ts";
import { pickPositions } from "../ort/pick_positions.ts";
import { pruneGraph } from "../ort/prune_graph.ts";
import { widenHalf } from "../ort/widen_half.ts";

/** How weights are held: expanded to f32 once, or as the file has them and expanded in every pass. */
export type WeightForm = "f32" | "int4";

/** A model ready for onnxruntime: the graph, and the data of its weights by where the graph says that they are. */
export interface RewrittenModel {
  graph: Uint8Array;
  weights: Map<string, Uint8Array>;
  /** Name of the last hidden state, an output: f32 `[1, tokens, hidden_size]`. */
  hiddenStates: string;
}

/**
 * Bytes of weights in the heap for each form, f16 widened to f32.
 * @throws {ModelFileError} when a constant is of a type that no weight has
 */
export function weightBytes(decoder: DecoderGraph): Record<WeightForm, number> {
  const floats = (tensor: OnnxTensor) => tensorByteLength({ ...tensor, dataType: DataType.FLOAT });
  const packed = ({ qweight, scales, zeroPoints }: QuantizedProduct) =>
    tensorByteLength(qweight) + floats(scales) + (zeroPoints ? tensorByteLength(zeroPoints) : 0);
  const { embedding, rotary, finalNorm, layers } = decoder;
  const products = quantizedProducts(decoder);
  const vectors = [...layers.flatMap((layer) => [layer.inputNorm, layer.postAttentionNorm]), finalNorm];
  const rest = [...vectors, rotary.cos, rotary.sin].reduce((sum, tensor) => sum + floats(tensor), 0) +
    ("node" in embedding ? packed(embedding) : floats(embedding));
  return {
    f32: products.reduce((sum, { n, k }) => sum + n * k * 4, rest),
    int4: products.reduce((sum, product) => sum + packed(product), rest),
  };
}

/**
 * Makes a decoder graph one that runs in f32 with GroupQueryAttention, and cheap to run token by token:
 * lm_head gets only the positions that are wanted, and the last hidden state becomes an output (`pickPositions`);
 * attention avoids a slow path ({@linkcode noSink}); and, for `"f32"`, each
 * `MatMulNBits` becomes a plain `MatMul` over weights expanded here, because onnxruntime-web 1.30.0 expands them anew in
 * every call (7 to 11 times slower at one token).
 * @param decoder what `model` was read as
 * @param onnxPath where the model's external data lies beside
 * @param onProgress called with the share done
 * @throws {ModelFileError} when the graph is not a decoder of this kind, or its data is damaged
 */
export function rewriteModel(
  original: OnnxModel,
  decoder: DecoderGraph,
  onnxPath: string,
  form: WeightForm,
  onProgress?: (fraction: number) => void,
): RewrittenModel {
  const fused = pruneGraph(fixRotary(fuseAttention(original, decoder), decoder));
  const model = widenHalf(fused);
  const weights = new Map<string, Uint8Array>();
  const byName = initializersByName(fused);
  using files = new TensorFiles(onnxPath);
  const read = (name: string | undefined): Uint8Array | undefined => {
    const tensor = name ? byName.get(name) : undefined;
    if (!tensor) return undefined;
    const source = asFloats(tensor, files.bytesOf(tensor));
    const bytes = new Uint8Array(source.length);
    source.read(0, bytes);
    return bytes;
  };

  const initializers = initializersByName(model);
  const replaced = new Map<OnnxNode, OnnxNode>();
  const moved = new Set<string>();
  const addWeight = (tensor: OnnxTensor, bytes: Uint8Array) => {
    const { rawData: _, ...rest } = tensor;
    // Not the tensor's name: onnxruntime takes a location for a path, and refuses those that lead elsewhere.
    const location = `weights_${weights.size}`;
    weights.set(location, bytes);
    moved.add(tensor.name);
    initializers.set(tensor.name, {
      ...rest,
      dataLocation: DataLocation.EXTERNAL,
      externalData: at(location, bytes),
    });
  };

  if (form === "f32") {
    const products = quantizedProducts(decoder);
    products.forEach((product, index) => {
      const { node, n, k, qweight } = product;
      const name = `${qweight.name}.f32`;
      addWeight({ name, dataType: DataType.FLOAT, dims: [k, n] }, new Uint8Array(expand(product, read).buffer));
      replaced.set(node, { ...node, opType: "MatMul", domain: "", input: [node.input[0]!, name], attribute: [] });
      onProgress?.((index + 1) / products.length);
    });
  }
  const node = model.graph.node.map((node) => {
    if (node.opType !== "GroupQueryAttention" || node.input[HEAD_SINK]) return replaced.get(node) ?? node;
    const sink = noSink(integer(node, "num_heads"));
    initializers.set(sink.name, sink);
    const input = Array.from({ length: HEAD_SINK }, (_, i) => node.input[i] ?? "");
    return { ...node, input: [...input, sink.name] };
  });

  // What no node reads any more goes, and what stays outside the file is handed over beside it.
  const used = new Set(node.flatMap(({ input }) => input));
  for (const [name, tensor] of initializers) {
    if (!used.has(name)) initializers.delete(name);
    else if (!moved.has(name) && isOutside(tensor, byName.get(name))) addWeight(tensor, read(name)!);
  }
  const rewritten = { ...model, graph: { ...model.graph, node, initializer: [...initializers.values()] } };
  const { hiddenStates } = decoder;
  return { graph: encodeModel(pickPositions(rewritten, decoder)), weights, hiddenStates };
}

function initializersByName({ graph }: OnnxModel): Map<string, OnnxTensor> {
  return new Map(graph.initializer.map((tensor) => [tensor.name, tensor]));
}

/** onnxruntime-web looks external data up by `location` among what was mounted. */
function at(location: string, bytes: Uint8Array) {
  return [
    { key: "location", value: location },
    { key: "offset", value: "0" },
    { key: "length", value: String(bytes.length) },
  ];
}

/** Whether a tensor's bytes are handed over beside the graph: they are outside the file, or widened. */
const isOutside = (tensor: OnnxTensor, before: OnnxTensor | undefined) =>
  before !== undefined && (tensor.dataLocation === DataLocation.EXTERNAL || tensor.dataType !== before.dataType);

/** All products, in the order in which they are run. */
export function quantizedProducts({ layers, head }: DecoderGraph): QuantizedProduct[] {
  return [
    ...layers.flatMap(({ attention, output, gateUp, down }) => [...attention.qkv, output, ...gateUp, down]),
    head,
  ];
}

/** Place of `head_sink` among the inputs of GroupQueryAttention. */
const HEAD_SINK = 11;
const LOWEST_F32 = -3.4028234663852886e38;

/**
 * Attention sinks that take no attention: `exp(lowest)` adds 0 to each softmax. With them the operator does not take
 * its flash attention path, which onnxruntime 1.30 has for more than one token
 * (https://github.com/microsoft/onnxruntime/pull/28962) and which is 16 times slower in WASM than the plain one:
 * 128 ms against 8 ms for 64 tokens on 1,024, 9 heads of 64, one thread.
 */
function noSink(heads: number): OnnxTensor {
  const rawData = new Uint8Array(new Float32Array(heads).fill(LOWEST_F32).buffer);
  return { name: `no_sink.${heads}`, dataType: DataType.FLOAT, dims: [heads], rawData };
}

function expand(
  { node, n, k, bits, qweight, scales, zeroPoints }: QuantizedProduct,
  read: (name: string) => Uint8Array | undefined,
): Float32Array<ArrayBuffer> {
  const bytesOf = (tensor: OnnxTensor): Uint8Array => {
    const bytes = read(tensor.name);
    if (!bytes) throw new ModelFileError(`Cannot use node ${nodeName(node)}: ${tensor.name} is gone`);
    return bytes;
  };
  const zeros = zeroPoints && bytesOf(zeroPoints);
  return expandMatMulNBits({
    inFeatures: k,
    outFeatures: n,
    bits,
    blockSize: BLOCK_SIZE,
    qweight: bytesOf(qweight),
    scales: floats(bytesOf(scales)),
    zeroPoints: zeros && zeroPoints.dataType !== DataType.UINT8 ? floats(zeros) : zeros,
  });
}

/** A copy, since bytes inside a protobuf lie at any address. */
function floats(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Uint8Array(bytes).buffer);
}
