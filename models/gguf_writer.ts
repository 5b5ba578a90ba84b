/**
 * Writes GGUF version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 *
 * ```
 * "GGUF" | version u32 | tensors u64 | metadata entries u64
 * entries: key string | type u32 | value          string: length u64 | UTF-8
 * tensors: name string | n_dims u32 | dims u64... | type u32 | offset u64
 * zeros up to a multiple of 32, then each tensor's data, each at a multiple of 32
 * ```
 */
import { ModelFileError } from "../src/errors.ts";
import { bytesOf, type TensorArray } from "./external_data.ts";
import type { FileStore } from "./file_store.ts";
import { GgmlType } from "./gguf_source.ts";

/** `general.alignment`'s default. */
const ALIGNMENT = 32;

/** `enum gguf_metadata_value_type`, as far as we write it. */
const ValueType = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const;

/** A value of metadata with its type in the file. */
export type GgufValue =
  | { type: "uint32" | "int32" | "float32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "array"; of: "int32" | "float32"; value: readonly number[] }
  | { type: "array"; of: "string"; value: readonly string[] };

/** A tensor to be written; its data is made when its turn comes. */
export interface GgufTensorSource {
  name: string;
  /** One of {@linkcode GgmlType}. */
  type: number;
  /** Outermost first, `[rows, columns]`; the file has them the other way round. */
  dims: readonly number[];
  pieces(): Iterable<TensorArray>;
}

/** Writes a whole file of that name into `store`. @throws {ModelFileError} when a tensor's data has another length */
export function writeGguf(
  store: FileStore,
  fileName: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorSource[],
): void {
  const header = new ByteWriter();
  header.bytes(new TextEncoder().encode("GGUF"));
  header.uint32(3);
  header.uint64(tensors.length);
  header.uint64(metadata.size);
  for (const [key, value] of metadata) {
    header.string(key);
    header.value(value);
  }
  let end = 0;
  const offsets = tensors.map((tensor) => {
    const offset = align(end);
    end = offset + tensorBytes(tensor);
    header.string(tensor.name);
    header.uint32(tensor.dims.length);
    for (const dim of [...tensor.dims].reverse()) header.uint64(dim);
    header.uint32(tensor.type);
    header.uint64(offset);
    return offset;
  });
  header.bytes(new Uint8Array(align(header.length) - header.length));
  store.write(fileName, 0, header.finish());
  const data = header.length;
  tensors.forEach((tensor, index) => {
    let at = data + offsets[index]!;
    for (const piece of tensor.pieces()) {
      store.write(fileName, at, bytesOf(piece));
      at += piece.byteLength;
    }
    const written = at - data - offsets[index]!;
    if (written !== tensorBytes(tensor)) {
      throw new ModelFileError(`Cannot write ${tensor.name}: ${written} bytes came, wanted ${tensorBytes(tensor)}`);
    }
  });
  // The data section is a whole number of alignments.
  if (align(end) > end) store.write(fileName, data + end, new Uint8Array(align(end) - end));
}

function align(offset: number): number {
  return Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
}

function tensorBytes({ name, type, dims }: GgufTensorSource): number {
  const count = dims.reduce((product, dim) => product * dim, 1);
  if (type === GgmlType.F32) return count * 4;
  if (type === GgmlType.F16) return count * 2;
  if (type === GgmlType.Q4_0) return count / 32 * 18;
  throw new ModelFileError(`Cannot write ${name}: ggml type ${type}, wanted F32 (0), F16 (1) or Q4_0 (2)`);
}

/** Little-endian bytes, one after another. */
class ByteWriter {
  #buffer = new Uint8Array(1 << 16);
  length = 0;

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  uint32(value: number): void {
    this.#number(4, (view, at) => view.setUint32(at, value, true));
  }

  uint64(value: number): void {
    this.#number(8, (view, at) => view.setBigUint64(at, BigInt(value), true));
  }

  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.uint64(bytes.length);
    this.bytes(bytes);
  }

  value(value: GgufValue): void {
    this.uint32(ValueType[value.type]);
    if (value.type === "array") {
      this.uint32(ValueType[value.of]);
      this.uint64(value.value.length);
      for (const item of value.value) this.#plain(value.of, item);
    } else {
      this.#plain(value.type, value.value);
    }
  }

  /** A copy of what has been written. */
  finish(): Uint8Array {
    return this.#buffer.slice(0, this.length);
  }

  #plain(type: Exclude<keyof typeof ValueType, "array">, value: number | string | boolean): void {
    if (type === "string") this.string(String(value));
    else if (type === "bool") this.bytes(Uint8Array.of(value ? 1 : 0));
    else if (type === "float32") this.#number(4, (view, at) => view.setFloat32(at, Number(value), true));
    else if (type === "int32") this.#number(4, (view, at) => view.setInt32(at, Number(value), true));
    else this.uint32(Number(value));
  }

  #number(size: number, set: (view: DataView, at: number) => void): void {
    this.#reserve(size);
    set(new DataView(this.#buffer.buffer), this.length);
    this.length += size;
  }

  #reserve(size: number): void {
    if (this.length + size <= this.#buffer.length) return;
    const larger = new Uint8Array(Math.max(2 * this.#buffer.length, this.length + size));
    larger.set(this.#buffer);
    this.#buffer = larger;
  }
}
