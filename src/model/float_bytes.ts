import { float16ToNumber } from "./float16.ts";
import { DataType, type OnnxTensor } from "./onnx_proto.ts";
import type { TensorBytes } from "./tensor_bytes.ts";

/** f16 numbers that are widened at a time. */
const PIECE = 1 << 16;
let table: Float32Array | undefined;

/** The value of each binary16, by its bits: made on first use. */
const values = (): Float32Array => table ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => float16ToNumber(bits));

/** A tensor of floats as f32, whether the file has f32 or f16: the latter is widened as it is read, exactly. */
export function asFloats({ dataType }: Pick<OnnxTensor, "dataType">, bytes: TensorBytes): TensorBytes {
  if (dataType !== DataType.FLOAT16) return bytes;
  return {
    length: 2 * bytes.length,
    read(at, into) {
      const wide = values();
      const count = into.length / 4;
      const half = new Uint16Array(Math.min(PIECE, count));
      const floats = into.byteOffset % 4 === 0 ? new Float32Array(into.buffer, into.byteOffset, count) : undefined;
      if (!floats || !Number.isInteger(count) || at % 4 !== 0) {
        throw new RangeError(
          `Cannot read floats: ${into.length} bytes from ${at} on, wanted whole ones where f32 may lie`,
        );
      }
      for (let done = 0; done < count; done += half.length) {
        const piece = half.subarray(0, Math.min(half.length, count - done));
        bytes.read(at / 2 + 2 * done, new Uint8Array(piece.buffer, 0, 2 * piece.length));
        for (let i = 0; i < piece.length; i++) floats[done + i] = wide[piece[i]!]!;
      }
    },
  };
}

/** The first `length` bytes of `bytes`. */
export function firstBytes(bytes: TensorBytes, length: number): TensorBytes {
  return { length, read: (at, into) => bytes.read(at, into) };
}
