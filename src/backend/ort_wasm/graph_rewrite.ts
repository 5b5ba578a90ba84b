import { ModelFileError } from "../../errors.ts";
import { tensorByteLength } from "../../model/external_tensor.ts";
import { expandMatMulNBits } from "../../model/matmul_nbits.ts";
import {
  AttributeType,
  DataLocation,
  DataType,
  encodeModel,
  intAttribute,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
  tensorValueInfo,
} from "../../model/onnx_proto.ts";
import { TensorFiles } from "../../model/tensor_bytes.ts";

/** How weights are held: expanded to f32 once, or as the file has them and expanded in every pass. */
export type WeightForm = "f32" | "int4";

/** A model ready for onnxruntime: the graph, and the data of its weights by the name that the graph calls them. */
export interface RewrittenModel {
  graph: Uint8Array;
  weights: Map<string, Uint8Array>;
  /** Name of the last hidden state, an output: f32 `[1, tokens, hidden_size]`. */
  hiddenStates: string;
}

/** An input that the rewritten graph has beside the model's own: int64 `[positions]`, where logits are wanted. */
export const LOGITS_POSITIONS = "logits_positions";

/** A `MatMulNBits` node with its parameters. */
interface QuantizedMatMul {
  node: OnnxNode;
  inFeatures: number;
  outFeatures: number;
  bits: number;
  blockSize: number;
}

/**
 * Bytes of weights in the heap for each form.
 * @throws {ModelFileError} when the graph is not one that can be rewritten
 */
export function weightBytes(model: OnnxModel): Record<WeightForm, number> {
  const byName = initializersByName(model);
  const matMuls = quantizedMatMuls(model);
  const quantized = new Set(matMuls.flatMap(({ node }) => node.input.slice(1)));
  const bytesOf = (names: Iterable<string>) =>
    [...names].reduce((total, name) => total + (byName.has(name) ? tensorByteLength(byName.get(name)!) : 0), 0);
  const rest = bytesOf(byName.keys()) - bytesOf(quantized);
  const expanded = matMuls.reduce((total, { inFeatures, outFeatures }) => total + inFeatures * outFeatures * 4, 0);
  return { f32: rest + expanded, int4: rest + bytesOf(quantized) };
}

/**
 * Makes a decoder graph cheap to run token by token:
 * lm_head gets only the positions in the new input {@linkcode LOGITS_POSITIONS}; the last hidden state becomes an
 * output; attention avoids a slow path ({@linkcode noSink}); and, for `"f32"`, each `MatMulNBits` becomes a plain `MatMul` over weights expanded here, because
 * onnxruntime-web 1.30.0 expands them anew in every call (7 to 11 times slower at one token).
 * @param onnxPath where the model's external data lies beside
 * @param onProgress called with the share done
 * @throws {ModelFileError} when the graph is not a decoder of this kind, or its data is damaged
 */
export function rewriteModel(
  model: OnnxModel,
  onnxPath: string,
  form: WeightForm,
  onProgress?: (fraction: number) => void,
): RewrittenModel {
  const { head, hiddenStates } = findHead(model);
  const weights = new Map<string, Uint8Array>();
  const byName = initializersByName(model);
  using files = new TensorFiles(onnxPath);
  const read = (name: string | undefined): Uint8Array | undefined => {
    const tensor = name ? byName.get(name) : undefined;
    if (!tensor) return undefined;
    const source = files.bytesOf(tensor);
    const bytes = new Uint8Array(source.length);
    source.read(0, bytes);
    return bytes;
  };

  const initializers = new Map(byName);
  const replaced = new Map<OnnxNode, OnnxNode>();
  const addWeight = (tensor: OnnxTensor, bytes: Uint8Array) => {
    const { rawData: _, ...rest } = tensor;
    weights.set(tensor.name, bytes);
    initializers.set(tensor.name, {
      ...rest,
      dataLocation: DataLocation.EXTERNAL,
      externalData: at(tensor.name, bytes),
    });
  };

  if (form === "f32") {
    const matMuls = quantizedMatMuls(model);
    matMuls.forEach((matMul, index) => {
      const name = `${matMul.node.input[1]}.f32`;
      addWeight(
        { name, dataType: DataType.FLOAT, dims: [matMul.inFeatures, matMul.outFeatures] },
        new Uint8Array(expand(matMul, read).buffer),
      );
      replaced.set(matMul.node, plainMatMul(matMul.node, name));
      onProgress?.((index + 1) / matMuls.length);
    });
  }
  const nodes = model.graph.node.map((node) => {
    if (node.opType !== "GroupQueryAttention" || node.input[HEAD_SINK]) return replaced.get(node) ?? node;
    const sink = noSink(attribute(node, "num_heads"));
    initializers.set(sink.name, sink);
    const input = Array.from({ length: HEAD_SINK }, (_, i) => node.input[i] ?? "");
    return { ...node, input: [...input, sink.name] };
  });
  const headNode = nodes[model.graph.node.indexOf(head)]!;
  const picked = "/lm_head/positions/output_0";
  const gather: OnnxNode = {
    name: "/lm_head/positions",
    opType: "Gather",
    input: [hiddenStates, LOGITS_POSITIONS],
    output: [picked],
    attribute: [intAttribute("axis", 1)],
  };
  const node = nodes.flatMap((item) =>
    item === headNode ? [gather, { ...item, input: [picked, ...item.input.slice(1)] }] : [item]
  );

  // What no node reads any more goes, and what stays outside the file is handed over by name.
  const used = new Set(node.flatMap(({ input }) => input));
  for (const [name, tensor] of initializers) {
    if (!used.has(name)) initializers.delete(name);
    else if (!weights.has(name) && tensor.dataLocation === DataLocation.EXTERNAL) addWeight(tensor, read(name)!);
  }
  const rewritten: OnnxModel = {
    ...model,
    graph: {
      ...model.graph,
      node,
      initializer: [...initializers.values()],
      input: [...model.graph.input, tensorValueInfo(LOGITS_POSITIONS, DataType.INT64, ["positions"])],
      output: [
        // Its second dimension is no longer the sequence's.
        ...model.graph.output.map((output) =>
          output.name === "logits"
            ? tensorValueInfo("logits", DataType.FLOAT, ["batch_size", "positions", "vocab"])
            : output
        ),
        tensorValueInfo(hiddenStates, DataType.FLOAT, ["batch_size", "sequence_length", "hidden_size"]),
      ],
    },
  };
  return { graph: encodeModel(rewritten), weights, hiddenStates };
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

/** The node that makes `logits`, and what it reads. */
function findHead({ graph }: OnnxModel): { head: OnnxNode; hiddenStates: string } {
  const head = graph.node.find(({ output }) => output.includes("logits"));
  if (head?.opType !== "MatMulNBits" && head?.opType !== "MatMul") {
    throw new ModelFileError(
      `Cannot use the graph: logits come from ${head ? `${head.opType} ${head.name}` : "no node"}, ` +
        "wanted MatMulNBits or MatMul",
    );
  }
  return { head, hiddenStates: head.input[0]! };
}

function quantizedMatMuls({ graph }: OnnxModel): QuantizedMatMul[] {
  return graph.node.filter(({ opType }) => opType === "MatMulNBits").map((node) => ({
    node,
    inFeatures: attribute(node, "K"),
    outFeatures: attribute(node, "N"),
    bits: attribute(node, "bits"),
    blockSize: attribute(node, "block_size"),
  }));
}

function attribute(node: OnnxNode, name: string): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT);
  if (found?.i === undefined) throw new ModelFileError(`Cannot use node ${node.name}: it has no attribute ${name}`);
  return found.i;
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
  { node, inFeatures, outFeatures, bits, blockSize }: QuantizedMatMul,
  read: (name: string | undefined) => Uint8Array | undefined,
): Float32Array<ArrayBuffer> {
  const [, qweight, scales, zeroPoints] = node.input.map(read);
  if (!qweight || !scales) throw new ModelFileError(`Cannot use node ${node.name}: its weights are not constants`);
  const blocks = outFeatures * inFeatures / blockSize;
  return expandMatMulNBits({
    inFeatures,
    outFeatures,
    bits,
    blockSize,
    qweight,
    scales: floats(scales),
    // Float zero points are one a block and four bytes each; packed ones are a byte or half of one.
    zeroPoints: zeroPoints && zeroPoints.length === blocks * 4 ? floats(zeroPoints) : zeroPoints,
  });
}

/** A copy, since bytes inside a protobuf lie at any address. */
function floats(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Uint8Array(bytes).buffer);
}

function plainMatMul(node: OnnxNode, weight: string): OnnxNode {
  if (node.input[4] || node.input[5]) {
    throw new ModelFileError(`Cannot expand node ${node.name}: a group index or bias is not supported`);
  }
  return { ...node, opType: "MatMul", domain: "", input: [node.input[0]!, weight], attribute: [] };
}
