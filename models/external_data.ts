import { DataLocation, type OnnxTensor } from "../src/model/onnx_proto.ts";
import { ModelFileError } from "../src/errors.ts";
import type { FileStore } from "./file_store.ts";

/** A tensor too large for memory: its bytes come one piece after another, `byteLength` in all. */
export interface TensorStream {
  byteLength: number;
  pieces(): Iterable<TensorArray>;
}

/** Arrays whose bytes are a tensor's, little-endian. */
export type TensorArray = Uint8Array | Uint16Array | Float32Array | BigInt64Array;

/** What a tensor's bytes may come from. */
export type TensorData = TensorArray | TensorStream;

/** Page size: a large tensor can be mapped into memory without a copy. */
const PAGE_BYTES = 4096;
/** A cache line, and more than any SIMD load wants. */
const LINE_BYTES = 64;
const LARGE_BYTES = 65_536;
/** Below this a tensor stays in the `.onnx` file itself. */
const SMALL_BYTES = 1024;

/**
 * Puts tensors into files beside an `.onnx` file, each at most `maxFileBytes`, in the order in which they come and at
 * once: nothing is kept here but names and sizes.
 * https://onnx.ai/onnx/repo-docs/ExternalData.html
 */
export class ExternalDataWriter {
  /** Bytes in each file so far; the last one is still open. */
  #sizes: number[] = [0];
  #insideBytes = 0;

  /**
   * @param fileName the name of the file with this number, counted from 0
   * @param insideBytes large tensors, too, stay in the `.onnx` file until they are so many bytes; they are kept in
   * memory, and have to stay as they are
   */
  constructor(
    readonly store: FileStore,
    readonly fileName: (index: number) => string,
    readonly maxFileBytes: number,
    readonly insideBytes = 0,
  ) {}

  /** Files begun so far. */
  get fileCount(): number {
    return this.#sizes.length;
  }

  /** Puts `data`, little-endian, into the current file, or the next one when it is full. */
  add(name: string, dataType: number, dims: number[], data: TensorData): OnnxTensor {
    if (ArrayBuffer.isView(data) && this.#staysInside(data.byteLength)) {
      return { name, dataType, dims, rawData: bytesOf(data) };
    }
    const [index, offset] = this.#place(name, data.byteLength);
    let at = offset;
    for (const piece of ArrayBuffer.isView(data) ? [data] : data.pieces()) {
      this.store.write(this.fileName(index), at, bytesOf(piece));
      at += piece.byteLength;
    }
    if (at !== offset + data.byteLength) {
      throw new ModelFileError(`Cannot store ${name}: ${at - offset} bytes came, wanted ${data.byteLength}`);
    }
    const externalData = [
      { key: "location", value: this.fileName(index) },
      { key: "offset", value: String(offset) },
      { key: "length", value: String(data.byteLength) },
    ];
    return { name, dataType, dims, externalData, dataLocation: DataLocation.EXTERNAL };
  }

  #staysInside(byteLength: number): boolean {
    if (byteLength < SMALL_BYTES) return true;
    if (this.#insideBytes + byteLength > this.insideBytes) return false;
    this.#insideBytes += byteLength;
    return true;
  }

  #place(name: string, byteLength: number): [index: number, offset: number] {
    if (byteLength > this.maxFileBytes) {
      throw new ModelFileError(`Cannot store ${name}: ${byteLength} bytes, a file holds ${this.maxFileBytes}`);
    }
    const alignment = byteLength >= LARGE_BYTES ? PAGE_BYTES : LINE_BYTES;
    let index = this.#sizes.length - 1;
    let offset = Math.ceil(this.#sizes[index]! / alignment) * alignment;
    if (offset + byteLength > this.maxFileBytes) {
      index = this.#sizes.push(0) - 1;
      offset = 0;
    }
    this.#sizes[index] = offset + byteLength;
    return [index, offset];
  }
}

/** Names of external data as transformers.js asks for them: `model_q4.onnx_data`, `model_q4.onnx_data_1`, ... */
export function transformersJsDataName(modelFileName: string): (index: number) => string {
  return (index) => `${modelFileName}_data${index === 0 ? "" : `_${index}`}`;
}

/** The same bytes under another name and shape: a weight that two operators read is on disk once. */
export function aliasTensor(tensor: OnnxTensor, name: string, dims: number[]): OnnxTensor {
  return { ...tensor, name, dims };
}

/** The bytes of an array, without a copy. */
export function bytesOf(array: TensorArray): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
