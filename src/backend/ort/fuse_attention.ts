import type { DecoderGraph } from "../../model/decoder_graph.ts";
import {
  DataType,
  floatAttribute,
  intAttribute,
  type OnnxModel,
  type OnnxNode,
  type OnnxTensor,
} from "../../model/onnx_proto.ts";

const PATH = "/model/attention_lengths";

/**
 * Makes each RotaryEmbedding and MultiHeadAttention one GroupQueryAttention, which has its positions from the lengths
 * and its mask built in: one recipe for KV, whatever the file has, and prompts in parts, which the web export's mask
 * cannot do. `position_ids`, the mask and what makes it are read by nobody then. Other graphs stay as they are.
 * @param decoder what `model` was read as
 */
export function fuseAttention(model: OnnxModel, decoder: DecoderGraph): OnnxModel {
  const fused = new Map(
    decoder.layers
      .filter(({ attention }) => attention.node.opType === "MultiHeadAttention")
      .map(({ attention: { node, qkv, cos, sin } }) => [node, groupQuery(node, qkv.map(outputOf), cos, sin)]),
  );
  if (fused.size === 0) return model;
  const { graph } = model;
  return {
    ...model,
    graph: {
      ...graph,
      node: [...lengthNodes(), ...graph.node.map((node) => fused.get(node) ?? node)],
      initializer: [...graph.initializer, int64("one", [1], 1n), int64("second", [], 1n)],
    },
  };
}

const outputOf = ({ node }: { node: OnnxNode }): string => node.output[0]!;

/** MultiHeadAttention has its past at inputs 6 and 7, GroupQueryAttention at 3 and 4. */
function groupQuery(node: OnnxNode, projected: readonly string[], cos: string, sin: string): OnnxNode {
  const [, , , , , , pastKeys = "", pastValues = ""] = node.input;
  const [heads, scale] = ["num_heads", "scale"].map((name) => node.attribute.find((item) => item.name === name));
  return {
    ...node,
    opType: "GroupQueryAttention",
    input: [...projected, pastKeys, pastValues, `${PATH}/seqlens_k`, `${PATH}/total_sequence_length`, cos, sin],
    attribute: [
      intAttribute("num_heads", heads!.i!),
      intAttribute("kv_num_heads", heads!.i!),
      floatAttribute("scale", scale?.f ?? 0),
      intAttribute("local_window_size", -1),
      intAttribute("do_rotary", 1),
      intAttribute("rotary_interleaved", 0),
    ],
  };
}

/** From `attention_mask`: int32 `[batch_size]`, tokens less one, and an int32 scalar, tokens. */
function lengthNodes(): OnnxNode[] {
  const node = (
    opType: string,
    input: string[],
    output: string,
    attribute = [] as OnnxNode["attribute"],
  ): OnnxNode => ({
    name: `${PATH}/${opType}_${output}`,
    opType,
    domain: "",
    input: input.map((name) => name === "attention_mask" ? name : `${PATH}/${name}`),
    output: [`${PATH}/${output}`],
    attribute,
  });
  const toInt32 = [intAttribute("to", DataType.INT32)];
  return [
    node("ReduceSum", ["attention_mask", "one"], "tokens", [intAttribute("keepdims", 0)]),
    node("Sub", ["tokens", "one"], "last"),
    node("Cast", ["last"], "seqlens_k", toInt32),
    node("Shape", ["attention_mask"], "shape"),
    node("Gather", ["shape", "second"], "total", [intAttribute("axis", 0)]),
    node("Cast", ["total"], "total_sequence_length", toInt32),
  ];
}

function int64(name: string, dims: number[], value: bigint): OnnxTensor {
  const rawData = new Uint8Array(BigInt64Array.of(value).buffer);
  return { name: `${PATH}/${name}`, dataType: DataType.INT64, dims, rawData };
}
