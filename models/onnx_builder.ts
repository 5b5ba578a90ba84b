import {
  AttributeType,
  DataType,
  encodeModel,
  floatAttribute,
  intAttribute,
  type OnnxAttribute,
  type OnnxModel,
  type OnnxTensor,
  type OnnxValueInfo,
  stringAttribute,
} from "../src/model/onnx_proto.ts";
import { aliasTensor, bytesOf, type ExternalDataWriter, type TensorData } from "./external_data.ts";
import { float16Array } from "../src/model/float16.ts";
import { type GraphStyle, HEARTH_STYLE } from "./graph_style.ts";
import { BLOCK_SIZE, type NBitsMatrix } from "./nbits_matrix.ts";

/** The domain of onnxruntime's own operators. */
export const MICROSOFT = "com.microsoft";

/** A plain number is written as INT; for a float see {@linkcode float}. */
type AttributeValue = number | string | OnnxAttribute;

interface NodeOptions {
  /** @default "" the standard ONNX operators */
  domain?: string;
  attributes?: Record<string, AttributeValue>;
}

/** Names of a quantized matrix's initializers, in the order in which MatMulNBits takes them. */
export interface MatrixNames {
  qweight: string;
  scales: string;
  zeroPoints: string | undefined;
}

/** Collects nodes and initializers of one graph, in topological order as they are added. */
export class OnnxBuilder {
  #model: OnnxModel;
  #initializers = new Map<string, OnnxTensor>();
  #constants = new Set<string>();

  constructor(readonly data: ExternalDataWriter, readonly style: GraphStyle = HEARTH_STYLE) {
    this.#model = {
      irVersion: style.irVersion,
      opsetImport: [{ domain: "", version: style.opset }, { domain: MICROSOFT, version: 1 }],
      graph: { name: "main_graph", node: [], initializer: [], input: [], output: [] },
    };
  }

  /** What activations, scales, norms and caches are. */
  get floatType(): number {
    return this.style.floatType === "f16" ? DataType.FLOAT16 : DataType.FLOAT;
  }

  input(info: OnnxValueInfo): void {
    this.#model.graph.input.push(info);
  }

  output(info: OnnxValueInfo): void {
    this.#model.graph.output.push(info);
  }

  /** Adds a node whose outputs have the given names; "" leaves an optional input or output out. */
  node(opType: string, name: string, input: string[], output: string[], options: NodeOptions = {}): void {
    const attribute = Object.entries(options.attributes ?? {}).map(([key, value]) => makeAttribute(key, value));
    this.#model.graph.node.push({ name, opType, domain: options.domain ?? "", input, output, attribute });
  }

  /** Adds a node of one output. @returns the output's name, `<name>/output_0` */
  op(opType: string, name: string, input: string[], options?: NodeOptions): string {
    const output = `${name}/output_0`;
    this.node(opType, name, input, [output], options);
    return output;
  }

  /** Adds a constant, once for each name. @returns `name` */
  tensor(name: string, dataType: number, dims: number[], data: TensorData): string {
    if (!this.#initializers.has(name)) this.#initializers.set(name, this.data.add(name, dataType, dims, data));
    return name;
  }

  /** Adds a constant of the style's float type, once for each name. @returns `name` */
  floats(name: string, dims: number[], values: Float32Array): string {
    return this.tensor(name, this.floatType, dims, this.narrow(values));
  }

  /** `values` in the style's float type. */
  narrow(values: Float32Array): Float32Array | Uint16Array {
    return this.style.floatType === "f16" ? float16Array(values) : values;
  }

  /** Adds a constant whose bytes are those of `of`, which must have been added. @returns `name` */
  alias(name: string, of: string, dims: number[]): string {
    const tensor = this.#initializers.get(of);
    if (tensor === undefined) throw new RangeError(`Cannot alias ${of}: no such tensor was added`);
    this.#initializers.set(name, aliasTensor(tensor, name, dims));
    return name;
  }

  /** Adds an int64 constant: a scalar for a number, a vector for a list. @returns its name */
  int64(value: number | bigint | (number | bigint)[]): string {
    const values = Array.isArray(value) ? value : [value];
    const label = Array.isArray(value) ? `[${value.join(", ")}]` : String(value);
    const dims = Array.isArray(value) ? [value.length] : [];
    return this.#constant(`INT64/${label}`, DataType.INT64, dims, BigInt64Array.from(values, BigInt));
  }

  /** Adds a scalar of the style's float type. @returns its name */
  scalar(value: number): string {
    const type = this.style.floatType === "f16" ? "FLOAT16" : "FLOAT";
    return this.#constant(`${type}/${value}`, this.floatType, [], this.narrow(Float32Array.of(value)));
  }

  #constant(label: string, dataType: number, dims: number[], data: BigInt64Array | Float32Array | Uint16Array): string {
    const name = `/model/constants/${label}`;
    if (!this.style.constantNodes) return this.tensor(name, dataType, dims, data);
    if (!this.#constants.has(name)) {
      this.#constants.add(name);
      const value = tensorAttribute("value", { name: "", dataType, dims, rawData: bytesOf(data) });
      this.node("Constant", `/model/constant_nodes/${label}`, [], [name], { attributes: { value } });
    }
    return name;
  }

  /** Adds the constants of `matrix` for the product at `path`, the weights with shape `[N, K/32, 32 * bits / 8]`. */
  matrix(path: string, matrix: NBitsMatrix): MatrixNames {
    const { bits, rows, qweight, scales, zeroPoints } = matrix;
    const names = this.style.matMulNames(path);
    const blocks = matrix.columns / BLOCK_SIZE;
    const shape = [rows, blocks, BLOCK_SIZE * bits / 8];
    const scaleDims = this.style.flatScales ? [rows * blocks] : [rows, blocks];
    return {
      qweight: this.tensor(names.qweight, DataType.UINT8, shape, qweight),
      scales: this.floats(names.scales, scaleDims, scales),
      zeroPoints: zeroPoints && this.floats(names.zeroPoints, scaleDims, zeroPoints),
    };
  }

  /**
   * Adds `input` `[..., K]` times the transposed matrix, named as the style names the product at `path`.
   * @param output the output's name, where the style's will not do
   * @returns the output's name
   */
  matMul(path: string, input: string, matrix: NBitsMatrix, output = this.style.matMulNames(path).output): string {
    this.matMulNode(path, input, this.matrix(path, matrix), output, matrix);
    return output;
  }

  /** Adds the MatMulNBits node alone, over constants that are there. */
  matMulNode(path: string, input: string, names: MatrixNames, output: string, matrix: NBitsMatrix): void {
    const inputs = [input, names.qweight, names.scales];
    if (names.zeroPoints !== undefined) inputs.push(names.zeroPoints);
    this.node("MatMulNBits", this.style.matMulNames(path).node, inputs, [output], {
      domain: MICROSOFT,
      attributes: {
        accuracy_level: this.style.accuracyLevel,
        bits: matrix.bits,
        block_size: BLOCK_SIZE,
        K: matrix.columns,
        N: matrix.rows,
      },
    });
  }

  /** The bytes of the `.onnx` file; the constants' bytes are in {@linkcode data}. */
  encode(): Uint8Array {
    this.#model.graph.initializer = [...this.#initializers.values()];
    return encodeModel({ ...this.#model, producerName: this.style.producerName });
  }
}

function makeAttribute(name: string, value: AttributeValue): OnnxAttribute {
  if (typeof value === "object") return value;
  return typeof value === "string" ? stringAttribute(name, value) : intAttribute(name, value);
}

/** A float attribute for {@linkcode OnnxBuilder.node}, which takes plain numbers for integers. */
export function float(name: string, value: number): Record<string, OnnxAttribute> {
  return { [name]: floatAttribute(name, value) };
}

/** An attribute of one tensor. */
export function tensorAttribute(name: string, t: OnnxTensor): OnnxAttribute {
  return { name, type: AttributeType.TENSOR, t };
}
