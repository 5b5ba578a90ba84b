import { DataLocation, type OnnxTensor } from "../src/model/onnx_proto.ts";
import { ModelFileError } from "../src/errors.ts";

/** What a typed array's bytes may come from. */
export type TensorData = Uint8Array | Float32Array | BigInt64Array;

/** A file of external data: where each part goes, in ascending order; what lies between is zero. */
interface Chunk {
  size: number;
  parts: { offset: number; bytes: Uint8Array }[];
}

/** Page size: a large tensor can be mapped into memory without a copy. */
const PAGE_BYTES = 4096;
/** A cache line, and more than any SIMD load wants. */
const LINE_BYTES = 64;
const LARGE_BYTES = 65_536;
/** Below this a tensor stays in the `.onnx` file itself. */
const INLINE_BYTES = 1024;

/**
 * Collects tensors for files beside an `.onnx` file, each at most `maxFileBytes`, named as transformers.js asks for
 * them: `model_q4.onnx_data`, then `model_q4.onnx_data_1` and so on.
 * https://onnx.ai/onnx/repo-docs/ExternalData.html
 */
export class ExternalDataWriter {
  #chunks: Chunk[] = [{ size: 0, parts: [] }];

  constructor(readonly modelFileName: string, readonly maxFileBytes: number) {}

  /** Puts `data`, little-endian, into the current file, or the next one when it is full. */
  add(name: string, dataType: number, dims: number[], data: TensorData): OnnxTensor {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    if (bytes.length < INLINE_BYTES) return { name, dataType, dims, rawData: bytes };
    const [index, offset] = this.#place(name, bytes);
    const externalData = [
      { key: "location", value: this.#fileName(index) },
      { key: "offset", value: String(offset) },
      { key: "length", value: String(bytes.length) },
    ];
    return { name, dataType, dims, externalData, dataLocation: DataLocation.EXTERNAL };
  }

  /** The finished files, by name. */
  files(): Map<string, Uint8Array> {
    return new Map(this.#chunks.map((chunk, index) => {
      const file = new Uint8Array(chunk.size);
      for (const { offset, bytes } of chunk.parts) file.set(bytes, offset);
      return [this.#fileName(index), file];
    }));
  }

  #place(name: string, bytes: Uint8Array): [index: number, offset: number] {
    const alignment = bytes.length >= LARGE_BYTES ? PAGE_BYTES : LINE_BYTES;
    let chunk = this.#chunks[this.#chunks.length - 1]!;
    let offset = Math.ceil(chunk.size / alignment) * alignment;
    if (offset + bytes.length > this.maxFileBytes && chunk.size > 0) {
      chunk = { size: 0, parts: [] };
      this.#chunks.push(chunk);
      offset = 0;
    }
    if (bytes.length > this.maxFileBytes) {
      throw new ModelFileError(`Cannot store ${name}: ${bytes.length} bytes, a file holds ${this.maxFileBytes}`);
    }
    chunk.parts.push({ offset, bytes });
    chunk.size = offset + bytes.length;
    return [this.#chunks.length - 1, offset];
  }

  #fileName(index: number): string {
    return `${this.modelFileName}_data${index === 0 ? "" : `_${index}`}`;
  }
}

/** The same bytes under another name and shape: a weight that two operators read is on disk once. */
export function aliasTensor(tensor: OnnxTensor, name: string, dims: number[]): OnnxTensor {
  return { ...tensor, name, dims };
}
