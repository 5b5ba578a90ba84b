/**
 * Reads and writes ONNX protobuf files by reflection over `onnx.proto`, which lies beside this file as the ONNX
 * project publishes it (Apache-2.0): https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
 *
 * Field names are the proto's in camelCase. Repeated fields are always arrays. Fields of the proto that have no
 * type here (quantization annotations, functions, ...) still survive decoding, spreading and encoding.
 */
import protobuf from "protobufjs";
import { ModelFileError } from "../errors.ts";
import { readAssetText } from "../host/assets.ts";

/** `TensorProto.DataType`: what the elements of a tensor are. */
export const DataType = {
  FLOAT: 1,
  UINT8: 2,
  INT8: 3,
  INT32: 6,
  INT64: 7,
  STRING: 8,
  BOOL: 9,
  FLOAT16: 10,
  DOUBLE: 11,
  BFLOAT16: 16,
  UINT4: 21,
  INT4: 22,
} as const;

/** `AttributeProto.AttributeType`: which field of an attribute holds its value. */
export const AttributeType = {
  FLOAT: 1,
  INT: 2,
  STRING: 3,
  TENSOR: 4,
  GRAPH: 5,
  FLOATS: 6,
  INTS: 7,
  STRINGS: 8,
} as const;

/** `TensorProto.DataLocation`. */
export const DataLocation = { DEFAULT: 0, EXTERNAL: 1 } as const;

/** A key and its value, as in `externalData`: `location` (file name), `offset`, `length` (decimal bytes). */
export interface OnnxStringEntry {
  key: string;
  value: string;
}

/** Elements lie in `rawData` (little-endian), in a typed field, or in a file that `externalData` names. */
export interface OnnxTensor {
  name: string;
  /** One of {@linkcode DataType}. */
  dataType: number;
  dims: number[];
  rawData?: Uint8Array;
  floatData?: number[];
  int32Data?: number[];
  int64Data?: number[];
  externalData?: OnnxStringEntry[];
  /** One of {@linkcode DataLocation}; absent means DEFAULT. */
  dataLocation?: number;
}

/** A named constant of a node; `type` says which of the other fields counts. */
export interface OnnxAttribute {
  name: string;
  /** One of {@linkcode AttributeType}. */
  type: number;
  f?: number;
  i?: number;
  /** UTF-8 bytes. */
  s?: Uint8Array;
  t?: OnnxTensor;
  g?: OnnxGraph;
  floats?: number[];
  ints?: number[];
  strings?: Uint8Array[];
}

/** One call of an operator. An empty string among `input` or `output` is an optional value left out. */
export interface OnnxNode {
  name: string;
  opType: string;
  /** Absent or empty for the standard ONNX operators, `com.microsoft` for onnxruntime's own. */
  domain?: string;
  input: string[];
  output: string[];
  attribute: OnnxAttribute[];
}

/** A dimension is a number or has a name; neither means unknown. */
export interface OnnxDimension {
  dimValue?: number;
  dimParam?: string;
}

/** Name, element type and shape of a graph's input, output or inner value. */
export interface OnnxValueInfo {
  name: string;
  type?: { tensorType?: { elemType?: number; shape?: { dim: OnnxDimension[] } } };
}

/** Nodes in topological order, the constants they read, and what goes in and out. */
export interface OnnxGraph {
  name: string;
  node: OnnxNode[];
  initializer: OnnxTensor[];
  input: OnnxValueInfo[];
  output: OnnxValueInfo[];
  valueInfo?: OnnxValueInfo[];
}

/** The version of one operator set that the graph was written against. */
export interface OnnxOpset {
  domain?: string;
  version: number;
}

/** The whole of an `.onnx` file. */
export interface OnnxModel {
  irVersion: number;
  producerName?: string;
  producerVersion?: string;
  opsetImport: OnnxOpset[];
  graph: OnnxGraph;
  metadataProps?: OnnxStringEntry[];
}

let modelType: protobuf.Type | undefined;

/** Parsed on first use: a process that never touches a graph does not pay for it. */
function modelProtoType(): protobuf.Type {
  if (modelType === undefined) {
    modelType = protobuf.parse(readAssetText("src/model/onnx.proto")).root.lookupType("onnx.ModelProto");
  }
  return modelType;
}

/**
 * Parses an `.onnx` file. `rawData` are views into `bytes`, not copies.
 * int64 fields become numbers; 2^63 - 1, the usual "to the end", becomes 2^63 and is written back as it was.
 * @throws {ModelFileError} when `bytes` are no ONNX model, or hold an integer that a number cannot
 */
export function decodeModel(bytes: Uint8Array): OnnxModel {
  let decoded: Record<string, unknown>;
  try {
    const type = modelProtoType();
    decoded = type.toObject(type.decode(bytes), { longs: Number, arrays: true });
  } catch (error) {
    throw new ModelFileError(
      `Cannot decode ONNX model: ${bytes.length} bytes are not a ModelProto (${String(error)})`,
      { cause: error },
    );
  }
  if (!isModel(decoded)) {
    throw new ModelFileError(
      `Cannot decode ONNX model: ${bytes.length} bytes hold no graph, wanted a ModelProto with one`,
    );
  }
  checkIntegers(decoded, "model");
  return decoded;
}

/** Serializes `model` to the bytes of an `.onnx` file; equal models give equal bytes. */
export function encodeModel(model: OnnxModel): Uint8Array {
  const type = modelProtoType();
  return type.encode(type.fromObject(model)).finish();
}

/** protobufjs has checked each field's type against onnx.proto; what is left is what proto2 calls optional. */
function isModel(decoded: object): decoded is OnnxModel {
  return "graph" in decoded && typeof decoded.graph === "object" && decoded.graph !== null;
}

const INT64_FIELDS = new Set(["i", "ints", "int64Data", "dims"]);
const INT64_LIMIT = 2 ** 63;

function checkIntegers(value: unknown, path: string): void {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return;
  for (const [key, field] of Object.entries(value)) {
    if (!INT64_FIELDS.has(key)) {
      checkIntegers(field, `${path}.${key}`);
      continue;
    }
    for (const number of Array.isArray(field) ? field : [field]) {
      if (!Number.isSafeInteger(number) && Math.abs(number) !== INT64_LIMIT) {
        throw new ModelFileError(`Cannot decode ONNX model: ${path}.${key} is ${number}, wanted at most 2^53 - 1`);
      }
    }
  }
}

/** An attribute of one integer. */
export function intAttribute(name: string, i: number): OnnxAttribute {
  return { name, type: AttributeType.INT, i };
}

/** An attribute of one float, rounded to f32 as the file holds it. */
export function floatAttribute(name: string, f: number): OnnxAttribute {
  return { name, type: AttributeType.FLOAT, f: Math.fround(f) };
}

/** An attribute of one string. */
export function stringAttribute(name: string, text: string): OnnxAttribute {
  return { name, type: AttributeType.STRING, s: new TextEncoder().encode(text) };
}

/** An input, output or inner value; a string among `shape` names a dimension that varies. */
export function tensorValueInfo(name: string, elemType: number, shape: readonly (number | string)[]): OnnxValueInfo {
  const dim = shape.map((size) => typeof size === "number" ? { dimValue: size } : { dimParam: size });
  return { name, type: { tensorType: { elemType, shape: { dim } } } };
}
