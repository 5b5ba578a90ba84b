import { readFileSync } from "node:fs";
import { gguf } from "@huggingface/gguf";
import { ModelFileError } from "../src/errors.ts";
import { type NBitsMatrix } from "./nbits_matrix.ts";
import { repackQ4_1 } from "./q4_1.ts";
import { repackQ8_0 } from "./q8_0.ts";

/** `enum ggml_type`: https://github.com/ggml-org/ggml/blob/master/include/ggml.h */
export const GgmlType = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 8 } as const;

/** One tensor of a GGUF file, bytes as they lie there. */
export interface GgufTensor {
  /** One of {@linkcode GgmlType}, or another that we do not read. */
  type: number;
  /** Outermost first, `[rows, columns]`: the reverse of ggml's order. */
  dims: number[];
  bytes: Uint8Array;
}

/** What the conversion needs of a GGUF file; a test can make one from nothing. */
export interface GgufSource {
  metadata: ReadonlyMap<string, unknown>;
  tensors: ReadonlyMap<string, GgufTensor>;
}

/**
 * Reads a GGUF file into memory; tensors are views into it.
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 * @throws {ModelFileError} when the file is short
 */
export async function openGguf(path: string): Promise<GgufSource> {
  const { metadata, tensorInfos, tensorDataOffset } = await gguf(path, { allowLocalFile: true });
  const file = readFileSync(path);
  const sorted = [...tensorInfos].sort((a, b) => Number(a.offset - b.offset));
  const tensors = new Map<string, GgufTensor>();
  for (const info of sorted) {
    const dims = info.shape.map(Number).reverse();
    const start = Number(tensorDataOffset + info.offset);
    const length = byteLength(info.dtype, dims.reduce((product, dim) => product * dim, 1));
    if (start + (length ?? 0) > file.length) {
      throw new ModelFileError(`Cannot read ${path}: it ends at byte ${file.length}, before the end of ${info.name}`);
    }
    tensors.set(info.name, { type: info.dtype, dims, bytes: file.subarray(start, start + (length ?? 0)) });
  }
  return { metadata: new Map(Object.entries(metadata)), tensors };
}

/** Bytes of `count` elements, undefined for a type that we do not read. */
function byteLength(type: number, count: number): number | undefined {
  if (type === GgmlType.F32) return count * 4;
  if (type === GgmlType.Q4_1) return count / 32 * 20;
  if (type === GgmlType.Q8_0) return count / 32 * 34;
  return undefined;
}

/** The number under `key`. @throws {ModelFileError} when it is missing or no number */
export function metadataNumber(source: GgufSource, key: string): number {
  const value = source.metadata.get(key);
  if (typeof value === "bigint") return Number(value);
  if (typeof value === "number") return value;
  throw new ModelFileError(`Cannot use GGUF metadata: ${key} is ${String(value)}, wanted a number`);
}

/** The string under `key`. @throws {ModelFileError} when it is missing or no string */
export function metadataString(source: GgufSource, key: string): string {
  const value = source.metadata.get(key);
  if (typeof value === "string") return value;
  throw new ModelFileError(`Cannot use GGUF metadata: ${key} is ${String(value)}, wanted a string`);
}

/** The list under `key`, each item checked by `isItem`. @throws {ModelFileError} when it is missing or of another kind */
export function metadataArray<T>(source: GgufSource, key: string, isItem: (item: unknown) => item is T): T[] {
  const value: unknown = source.metadata.get(key);
  if (Array.isArray(value) && value.every(isItem)) return value;
  throw new ModelFileError(`Cannot use GGUF metadata: ${key} is missing or of another kind, wanted a typed array`);
}

/** A weight matrix `[rows, columns]` in MatMulNBits form, no weight rounded. @throws {ModelFileError} */
export function readMatrix(source: GgufSource, name: string, rows: number, columns: number): NBitsMatrix {
  const { type, bytes } = findTensor(source, name, [rows, columns]);
  if (type === GgmlType.Q4_1) return repackQ4_1(bytes, rows, columns);
  if (type === GgmlType.Q8_0) return repackQ8_0(bytes, rows, columns);
  throw new ModelFileError(`Cannot convert ${name}: ggml type ${type}, wanted Q4_1 (3) or Q8_0 (8)`);
}

/** A vector of f32, `[size]`. @throws {ModelFileError} */
export function readVector(source: GgufSource, name: string, size: number): Float32Array {
  const { type, bytes } = findTensor(source, name, [size]);
  if (type !== GgmlType.F32) throw new ModelFileError(`Cannot convert ${name}: ggml type ${type}, wanted F32 (0)`);
  // A copy, because f32 wants an offset that divides by 4.
  return new Float32Array(new Uint8Array(bytes).buffer);
}

function findTensor(source: GgufSource, name: string, dims: number[]): GgufTensor {
  const tensor = source.tensors.get(name);
  if (tensor === undefined) throw new ModelFileError(`Cannot convert: the GGUF has no ${name}, wanted [${dims}]`);
  if (tensor.dims.join() !== dims.join()) {
    throw new ModelFileError(`Cannot convert ${name}: shape [${tensor.dims}], wanted [${dims}]`);
  }
  return tensor;
}
