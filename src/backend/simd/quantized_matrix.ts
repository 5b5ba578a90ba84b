import { ModelFileError } from "../../errors.ts";
import type { TensorBytes } from "../../model/tensor_bytes.ts";

/** A quantized matrix `[n, k]` in blocks of 32 along k, as `MatMulNBits` has it. */
export interface QuantizedMatrix {
  n: number;
  k: number;
  bits: 4 | 8;
  /** u8 `[n, k/32, 32 * bits / 8]` */
  qweight: TensorBytes;
  /** f32 `[n, k/32]` */
  scales: TensorBytes;
  /** f32 `[n, k/32]`, or u8 `[n, ceil(k/64)]`, two to a byte. Absent: the middle. */
  zeroPoints: TensorBytes | undefined;
}

/** A matrix `[n, k]` of which only rows are read, as it is in the file. */
export interface Table {
  n: number;
  k: number;
  /** f32 or f16 `[n, k]` */
  values: TensorBytes;
  half: boolean;
}

/**
 * Matrices with the same inputs, one below the other: one product instead of several.
 * @throws {ModelFileError} when they are quantized in different ways
 */
export function joinRows(parts: readonly QuantizedMatrix[]): QuantizedMatrix {
  const [first] = parts as [QuantizedMatrix];
  const zeroBytes = ({ n, zeroPoints }: QuantizedMatrix) => zeroPoints && zeroPoints.length / n;
  for (const part of parts) {
    if (part.k === first.k && part.bits === first.bits && zeroBytes(part) === zeroBytes(first)) continue;
    throw new ModelFileError(
      `Cannot fuse matrices: ${part.bits} bits x ${part.k} inputs beside ${first.bits} bits x ${first.k}, ` +
        "wanted one quantization for all",
    );
  }
  const join = (pick: (part: QuantizedMatrix) => TensorBytes) => joinBytes(parts.map(pick));
  return {
    ...first,
    n: parts.reduce((sum, { n }) => sum + n, 0),
    qweight: join(({ qweight }) => qweight),
    scales: join(({ scales }) => scales),
    zeroPoints: first.zeroPoints && join(({ zeroPoints }) => zeroPoints!),
  };
}

/** All parts, one after the other. */
function joinBytes(parts: readonly TensorBytes[]): TensorBytes {
  return {
    length: parts.reduce((sum, { length }) => sum + length, 0),
    read(at, into) {
      let start = 0;
      for (const part of parts) {
        const [from, until] = [Math.max(at, start), Math.min(at + into.length, start + part.length)];
        if (from < until) part.read(from - start, into.subarray(from - at, until - at));
        start += part.length;
      }
    },
  };
}
