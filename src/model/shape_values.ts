/**
 * Computes small values of a graph for given inputs: masks, lengths and positions, which a graph derives from shapes by
 * twenty operators. Whoever reads a graph sees by values what such a part means, however it was written.
 * Operators: https://onnx.ai/onnx/operators/
 */
import { ModelFileError } from "../errors.ts";
import { float16ToNumber } from "./float16.ts";
import { type GraphIndex, integer, nodeName } from "./graph_index.ts";
import { DataType, type OnnxNode, type OnnxTensor } from "./onnx_proto.ts";

/** A tensor in row-major order. Inputs of which only the shape counts have no numbers. */
export interface Value {
  dims: readonly number[];
  data?: readonly number[] | Float64Array;
}

type Known = Required<Value>;

/** A hostile graph must not make it compute for long, or fill the memory. */
export const MAX_ELEMENTS = 2 ** 23;
/** Of all values together. */
const MAX_TOTAL = 2 ** 25;
const MAX_RANK = 8;
const MAX_DEPTH = 100;

/** Values of one graph for one set of inputs. Each is computed once. */
export class ShapeValues {
  readonly #graph: GraphIndex;
  readonly #known: Map<string, Value>;
  #elements = 0;

  /** @param inputs by name; others are refused */
  constructor(graph: GraphIndex, inputs: Readonly<Record<string, Value>>) {
    this.#graph = graph;
    this.#known = new Map(Object.entries(inputs));
  }

  /** @throws {ModelFileError} naming the node that is none of a shape's */
  compute(name: string, depth = 0): Value {
    const known = this.#known.get(name);
    if (known) return known;
    const constant = this.#graph.constant(name);
    const node = this.#graph.producer(name);
    let value: Value;
    if (constant) value = fromTensor(constant);
    else if (!node) throw new ModelFileError(`Cannot use the graph: nothing makes ${name}, wanted a mask or a length`);
    else if (depth > MAX_DEPTH) throw refused(node, `it is ${depth} nodes away from what is made of it`);
    else value = this.#run(node, depth);
    this.#elements += value.data?.length ?? 0;
    if (this.#elements > MAX_TOTAL) {
      throw new ModelFileError(
        `Cannot use the graph: ${name} makes it ${this.#elements} numbers, wanted at most ${MAX_TOTAL} for a mask or a length`,
      );
    }
    this.#known.set(name, value);
    return value;
  }

  #run(node: OnnxNode, depth: number): Value {
    const inputs = node.input.map((name) => this.compute(name, depth + 1));
    const operator = Object.hasOwn(OPERATORS, node.opType) && !node.domain ? OPERATORS[node.opType] : undefined;
    if (!operator) throw refused(node, `${node.opType} is no operator of masks, lengths and positions`);
    return operator(node, inputs);
  }
}

const OPERATORS: Readonly<Record<string, (node: OnnxNode, inputs: readonly Value[]) => Value>> = {
  Shape: (_, [value]) => vector([...value!.dims]),
  Gather(node, [from, index]) {
    const { dims, data } = numbers(node, from);
    const at = numbers(node, index);
    if (dims.length !== 1 || integer(node, "axis", 0) !== 0) throw refused(node, "it gathers from no vector");
    return { dims: at.dims, data: Array.from(at.data, (i) => element(node, data, i < 0 ? i + data.length : i)) };
  },
  Unsqueeze(node, [value, axes]) {
    const dims = [...value!.dims];
    const places = numbers(node, axes).data;
    if (places.length > MAX_RANK) throw refused(node, `it adds ${places.length} dimensions`);
    for (const axis of places) dims.splice(axis < 0 ? axis + dims.length + 1 : axis, 0, 1);
    return sized(node, dims, numbers(node, value).data);
  },
  Squeeze(node, [value, axes]) {
    const gone = new Set(numbers(node, axes).data);
    return sized(node, value!.dims.filter((_, i) => !gone.has(i)), numbers(node, value).data);
  },
  Concat(node, values) {
    const parts = values.map((value) => numbers(node, value).data);
    const whole = filled(node, [parts.reduce((sum, { length }) => sum + length, 0)], 0);
    let at = 0;
    for (const part of parts) {
      whole.data.set(part, at);
      at += part.length;
    }
    return whole;
  },
  ConstantOfShape(node, [shape]) {
    const value = node.attribute.find(({ name }) => name === "value")?.t;
    return filled(node, [...numbers(node, shape).data], value ? fromTensor(value).data[0]! : 0);
  },
  Range(node, [start, limit, step]) {
    const [from, until, by] = [start, limit, step].map((value) => element(node, numbers(node, value).data, 0));
    const count = Math.max(0, Math.ceil((until! - from!) / by!));
    return { dims: [count], data: filled(node, [count], 0).data.map((_: number, i: number) => from! + i * by!) };
  },
  Slice(node, [value, starts, ends, axes]) {
    const { dims, data } = numbers(node, value);
    const [start, end, axis] = [starts, ends, axes].map((bound) => element(node, numbers(node, bound).data, 0));
    if (dims.length !== 1 || axis !== 0) throw refused(node, "it cuts no vector");
    return vector(Array.from(data).slice(start, end));
  },
  Reshape(node, [value, shape]) {
    const { data } = numbers(node, value);
    const dims = [...numbers(node, shape).data].map((dim, i) => dim === 0 ? value!.dims[i] ?? 0 : dim);
    const free = dims.indexOf(-1);
    if (free >= 0) dims[free] = data.length / -dims.reduce((product, dim) => product * dim, 1);
    return sized(node, dims, data);
  },
  Expand(node, [value, shape]) {
    const target = filled(node, [...numbers(node, shape).data], 0);
    return broadcast(node, [numbers(node, value), target], ([a]) => a!);
  },
  Tile(node, [value, repeats]) {
    const { dims, data } = numbers(node, value);
    const times = numbers(node, repeats).data;
    const tiled = filled(node, dims.map((dim, i) => dim * element(node, times, i)), 0);
    return { dims: tiled.dims, data: tiled.data.map((_: number, i: number) => data[tiledFrom(i, tiled.dims, dims)]!) };
  },
  ReduceSum(node, [value, axes]) {
    const { dims, data } = numbers(node, value);
    const onlyRow = dims.length === 2 && dims[0] === 1 && numbers(node, axes).data[0] === 1;
    if (!onlyRow || integer(node, "keepdims", 1) !== 0) throw refused(node, "it does not sum the mask of one sequence");
    return vector([Array.from(data).reduce((sum, number) => sum + number, 0)]);
  },
  Cast(node, [value]) {
    const { dims, data } = numbers(node, value);
    const isBool = integer(node, "to") === DataType.BOOL;
    return { dims, data: isBool ? Array.from(data, (number) => Number(number !== 0)) : data };
  },
  Where: (node, values) =>
    broadcast(node, values.map((value) => numbers(node, value)), ([condition, a, b]) => condition! ? a! : b!),
  Add: binary((a, b) => a + b),
  Sub: binary((a, b) => a - b),
  Mul: binary((a, b) => a * b),
  Equal: binary((a, b) => Number(a === b)),
  Less: binary((a, b) => Number(a < b)),
  Greater: binary((a, b) => Number(a > b)),
  GreaterOrEqual: binary((a, b) => Number(a >= b)),
};

function binary(operate: (a: number, b: number) => number) {
  return (node: OnnxNode, values: readonly Value[]): Value =>
    broadcast(node, [numbers(node, values[0]), numbers(node, values[1])], ([a, b]) => operate(a!, b!));
}

/** https://onnx.ai/onnx/repo-docs/Broadcasting.html */
function broadcast(node: OnnxNode, values: readonly Known[], combine: (elements: number[]) => number): Value {
  const rank = Math.max(...values.map(({ dims }) => dims.length));
  const padded = values.map(({ dims }) => [...Array.from({ length: rank - dims.length }, () => 1), ...dims]);
  const dims = Array.from({ length: rank }, (_, i) => {
    const sizes = padded.map((own) => own[i]!).filter((size) => size !== 1);
    if (sizes.some((size) => size !== sizes[0])) {
      throw refused(
        node,
        `shapes ${values.map(({ dims }) => `[${dims.join(", ")}]`).join(" and ")} do not go together`,
      );
    }
    return sizes[0] ?? 1;
  });
  const data = filled(node, dims, 0).data;
  for (let i = 0; i < data.length; i++) {
    data[i] = combine(values.map((value, v) => value.data[tiledFrom(i, dims, padded[v]!)]!));
  }
  return { dims, data };
}

/** Where element `index` of a tensor of `dims` comes from in one whose dims repeat to them. */
function tiledFrom(index: number, dims: readonly number[], own: readonly number[]): number {
  let [from, stride] = [0, 1];
  for (let i = dims.length - 1; i >= 0; i--) {
    from += index % dims[i]! % own[i]! * stride;
    stride *= own[i]!;
    index = Math.floor(index / dims[i]!);
  }
  return from;
}

const vector = (data: number[]): Value => ({ dims: [data.length], data });

function filled(node: OnnxNode, dims: number[], number: number): { dims: number[]; data: Float64Array } {
  const count = dims.reduce((product, dim) => product * dim, 1);
  requireRank(node, dims);
  if (!dims.every((dim) => Number.isInteger(dim) && dim >= 0) || count > MAX_ELEMENTS) {
    throw refused(node, `its shape is [${dims.join(", ")}]`);
  }
  return { dims, data: new Float64Array(count).fill(number) };
}

function requireRank(node: OnnxNode, dims: readonly number[]): void {
  if (dims.length > MAX_RANK) throw refused(node, `its shape has ${dims.length} dimensions`);
}

function sized(node: OnnxNode, dims: readonly number[], data: Known["data"]): Value {
  requireRank(node, dims);
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (count !== data.length) throw refused(node, `its shape is [${dims.join(", ")}] for ${data.length} elements`);
  return { dims, data };
}

function numbers(node: OnnxNode, value: Value | undefined): Known {
  if (!value?.data) throw refused(node, value ? "it reads what is not known before a pass" : "an input is missing");
  return { dims: value.dims, data: value.data };
}

function element(node: OnnxNode, data: ArrayLike<number>, index: number): number {
  const found = data[index];
  if (found === undefined) throw refused(node, `it reads element ${index} of ${data.length}`);
  return found;
}

const refused = (node: OnnxNode, why: string) =>
  new ModelFileError(`Cannot use node ${nodeName(node)}: ${why}, wanted a mask, a length or positions`);

/** A constant of the graph as numbers. */
function fromTensor({ name, dims, dataType, rawData, int64Data, floatData, int32Data }: OnnxTensor): Known {
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (dims.length > MAX_RANK || count > MAX_ELEMENTS) {
    throw new ModelFileError(
      `Cannot use tensor ${name || "of a Constant"}: ${dims.length} dimensions of ${count} numbers, ` +
        `wanted at most ${MAX_RANK} of ${MAX_ELEMENTS}`,
    );
  }
  const listed = [int64Data, floatData, int32Data].find((list) => list && list.length > 0);
  if (listed && listed.length === count) return { dims, data: listed };
  const bytes = rawData && rawData.length > 0 ? new Uint8Array(rawData).buffer : undefined;
  const read = bytes && Object.hasOwn(READERS, dataType) ? READERS[dataType]!(bytes) : undefined;
  if (read?.length === count) return { dims, data: read };
  throw new ModelFileError(
    `Cannot use tensor ${name || "of a Constant"}: wanted ${count} numbers of a mask or a length`,
  );
}

const READERS: Readonly<Record<number, (bytes: ArrayBuffer) => number[] | undefined>> = {
  [DataType.INT64]: (bytes) => bytes.byteLength % 8 ? undefined : Array.from(new BigInt64Array(bytes), Number),
  [DataType.INT32]: (bytes) => bytes.byteLength % 4 ? undefined : Array.from(new Int32Array(bytes)),
  [DataType.FLOAT]: (bytes) => bytes.byteLength % 4 ? undefined : Array.from(new Float32Array(bytes)),
  [DataType.FLOAT16]: (bytes) => bytes.byteLength % 2 ? undefined : Array.from(new Uint16Array(bytes), float16ToNumber),
  [DataType.BOOL]: (bytes) => Array.from(new Uint8Array(bytes)),
};
