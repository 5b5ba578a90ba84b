import { ModelFileError } from "../errors.ts";
import { GraphIndex, integer, mustBe, nodeName } from "./graph_index.ts";
import { DataType, type OnnxGraph, type OnnxNode, type OnnxTensor } from "./onnx_proto.ts";

const MICROSOFT = "com.microsoft";
/** Operators that onnxruntime added, and where it put them. */
const OWN: ReadonlySet<string> = new Set([
  "GatherBlockQuantized",
  "GroupQueryAttention",
  "MatMulNBits",
  "MultiHeadAttention",
  "RotaryEmbedding",
  "SkipSimplifiedLayerNormalization",
]);
/** Weights along K with one scale: what our kernels and every published file have. */
export const BLOCK_SIZE = 32;
const FLOATS: readonly number[] = [DataType.FLOAT, DataType.FLOAT16];

/** A product with quantized weights: its node, and its constants with their shapes checked. */
export interface QuantizedProduct {
  node: OnnxNode;
  n: number;
  k: number;
  bits: 4 | 8;
  /** u8 of `n * k * bits / 8` elements */
  qweight: OnnxTensor;
  /** f32 or f16 of `n * k / 32` elements */
  scales: OnnxTensor;
  /** As `scales`, or u8, two to a byte, a row in whole bytes. */
  zeroPoints: OnnxTensor | undefined;
}

/** Goes from a value back to what makes it, and refuses what is not as it has to be, by name. */
export class GraphReader {
  readonly index: GraphIndex;
  readonly #checked = new Set<string>();

  constructor(graph: OnnxGraph) {
    this.index = new GraphIndex(graph);
  }

  /** Runs a check that means the same for all layers once for each `key`. */
  once(key: string, check: () => void): void {
    if (this.#checked.has(key)) return;
    check();
    this.#checked.add(key);
  }

  /**
   * The node that makes `value`.
   * @param role for messages, such as `layer 3's down_proj`
   * @param output which of its outputs `value` has to be
   */
  producer(value: string | undefined, role: string, opTypes: readonly string[], output = 0): OnnxNode {
    const node = value ? this.index.producer(value) : undefined;
    const wanted = opTypes.join(" or ");
    if (!node) {
      throw new ModelFileError(
        `Cannot use the graph: nothing makes ${value || "a value"} for ${role}, wanted ${wanted}`,
      );
    }
    const domain = OWN.has(node.opType) ? MICROSOFT : "";
    if (!opTypes.includes(node.opType) || (node.domain ?? "") !== domain) {
      throw new ModelFileError(
        `Cannot use the graph: node ${nodeName(node)} is ${node.domain ? `${node.domain}.` : ""}${node.opType}, ` +
          `wanted ${wanted} for ${role}`,
      );
    }
    if (node.output[output] !== value) {
      throw new ModelFileError(
        `Cannot use node ${nodeName(node)}: ${role} reads its output ${node.output.indexOf(value!)}, wanted ${output}`,
      );
    }
    return node;
  }

  /** The quantized product `[n, k]` that makes `value`. */
  product(value: string | undefined, role: string, n: number, k: number): QuantizedProduct {
    const node = this.producer(value, role, ["MatMulNBits"]);
    mustBe(node, `N of ${role}`, integer(node, "N"), n);
    mustBe(node, `K of ${role}`, integer(node, "K"), k);
    return this.quantized(node, node.input.slice(1), n, k, integer(node, "bits", 4));
  }

  /** The constants of a quantized matrix: weights, scales, zero points, in this order. */
  quantized(
    node: OnnxNode,
    [qweight, scales, zeros, ...rest]: readonly (string | undefined)[],
    n: number,
    k: number,
    bits: number,
  ): QuantizedProduct {
    mustBe(node, "block_size", integer(node, "block_size"), BLOCK_SIZE);
    if (bits !== 4 && bits !== 8) mustBe(node, "bits", bits, "4 or 8");
    // Else the counts below could be whole where a row is not.
    mustBe(node, `what is left of ${k} columns after blocks of ${BLOCK_SIZE}`, k % BLOCK_SIZE, 0);
    mustBe(node, "its fifth input (a group index or bias)", rest.find((input) => input) ?? "absent", "absent");
    const packed = this.index.constant(zeros ?? "")?.dataType === DataType.UINT8;
    if (zeros && bits === 8) mustBe(node, "zero points of int8 weights", zeros, "absent, their middle is at 128");
    const zeroCount = packed ? n * Math.ceil(k / (2 * BLOCK_SIZE)) : n * k / BLOCK_SIZE;
    return {
      node,
      n,
      k,
      bits: bits as 4 | 8,
      qweight: this.tensor(qweight, n * k * bits / 8, [DataType.UINT8]),
      scales: this.tensor(scales, n * k / BLOCK_SIZE, FLOATS),
      zeroPoints: zeros ? this.tensor(zeros, zeroCount, packed ? [DataType.UINT8] : FLOATS) : undefined,
    };
  }

  /** A constant of so many floats. */
  floats(name: string | undefined, elements: number): OnnxTensor {
    return this.tensor(name, elements, FLOATS);
  }

  tensor(name: string | undefined, elements: number, types: readonly number[]): OnnxTensor {
    const found = this.index.constant(name ?? "");
    const whole = found?.dims.every((dim) => Number.isSafeInteger(dim) && dim >= 0);
    const size = found?.dims.reduce((product, dim) => product * dim, 1);
    if (found && whole && size === elements && types.includes(found.dataType)) return found;
    throw new ModelFileError(
      `Cannot use the graph: tensor ${name || "without a name"} ` +
        `${found ? `is [${found.dims.join(", ")}] of type ${found.dataType}` : "is missing"}, ` +
        `wanted ${elements} elements of type ${types.join(" or ")}`,
    );
  }
}
