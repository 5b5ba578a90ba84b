import { ModelFileError } from "../../errors.ts";
import { float16Array } from "../../model/float16.ts";
import { asFloats } from "../../model/float_bytes.ts";
import { DataType } from "../../model/onnx_proto.ts";
import type { TensorBytes } from "../../model/tensor_bytes.ts";

/** Bytes read at a time when a weight is handed over: all that loading holds of it. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** A constant as it is read: elements of a type that need not be the graph's. */
export interface Constant {
  /** One of {@linkcode DataType}. */
  dataType: number;
  bytes: TensorBytes;
}

/**
 * A constant's elements as `dataType`, converted where they are read.
 * @param name of the tensor, for the error
 * @throws {ModelFileError} from `read`, when an f32 is beyond what f16 holds
 */
export function bytesAs(dataType: number, { dataType: from, bytes }: Constant, name: string): TensorBytes {
  if (dataType === from) return bytes;
  return dataType === DataType.FLOAT ? asFloats({ dataType: from }, bytes) : halfOf(bytes, name);
}

/** The bytes from `from` on, `length` of them. */
export function sliceOf(source: TensorBytes, from: number, length: number): TensorBytes {
  return { length, read: (at, into) => source.read(from + at, into) };
}

/** The bytes of several, one after the other. */
export function joinOf(sources: readonly TensorBytes[]): TensorBytes {
  return {
    length: sources.reduce((sum, { length }) => sum + length, 0),
    read: (at, into) => {
      let start = 0;
      for (const source of sources) {
        const from = Math.max(at, start);
        const to = Math.min(at + into.length, start + source.length);
        if (from < to) source.read(from - start, into.subarray(from - at, to - at));
        start += source.length;
      }
    },
  };
}

/** f32 elements as f16, rounded to nearest. */
function halfOf(source: TensorBytes, name: string): TensorBytes {
  return {
    length: source.length / 2,
    read: (at, into) => {
      const floats = new Float32Array(into.length / 2);
      source.read(2 * at, new Uint8Array(floats.buffer));
      const halves = float16Array(floats);
      if (hasInfinite(halves)) {
        throw new ModelFileError(`Cannot use tensor ${name} as f16: an element is 65520 or more, or no number`);
      }
      into.set(new Uint8Array(halves.buffer));
    },
  };
}

/** Whether an exponent is all ones: of infinity or of no number. A loop, for there are hundreds of millions. */
function hasInfinite(halves: Uint16Array): boolean {
  for (let i = 0; i < halves.length; i++) if ((halves[i]! & 0x7c00) === 0x7c00) return true;
  return false;
}

/** What `make` gives, made at the first read and forgotten after the last. */
export function lazyBytes(length: number, make: () => Uint8Array): TensorBytes {
  let bytes: Uint8Array | undefined;
  return {
    length,
    read: (at, into) => {
      bytes ??= make();
      into.set(bytes.subarray(at, at + into.length));
      if (at + into.length === length) bytes = undefined;
    },
  };
}

/**
 * A weight as the `Blob` that onnxruntime-web takes as external data and reads as a stream: no weight is ever whole in
 * this process's memory.
 */
export class WeightBlob extends Blob {
  readonly #source: TensorBytes;

  constructor(source: TensorBytes) {
    super();
    this.#source = source;
  }

  override get size(): number {
    return this.#source.length;
  }

  override slice(start = 0, end = this.size): WeightBlob {
    return new WeightBlob(sliceOf(this.#source, start, end - start));
  }

  override stream(): ReadableStream<Uint8Array<ArrayBuffer>> {
    const source = this.#source;
    let chunk: Uint8Array<ArrayBuffer> | undefined;
    let at = 0;
    return new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull(controller) {
        const length = Math.min(CHUNK_BYTES, source.length - at);
        if (length > 0) {
          // Nothing is read ahead, so the reader has copied the chunk before.
          chunk ??= new Uint8Array(length);
          const part = chunk.subarray(0, length);
          source.read(at, part);
          at += length;
          controller.enqueue(part);
        }
        if (at === source.length) controller.close();
      },
    }, { highWaterMark: 0 });
  }
}
