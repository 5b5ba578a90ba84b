import { ModelFileError } from "../src/errors.ts";

/** Weights along K that share one scale and one zero point, in ggml's Q4_1 and Q8_0 as in our MatMulNBits. */
export const BLOCK_SIZE = 32;

/**
 * A weight matrix as onnxruntime's MatMulNBits reads it: `N` rows (outputs) of `K` weights (inputs) in blocks of 32.
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
 *
 * - `qweight` u8 `[N, K/32, 32 * bits / 8]`, unsigned. With 4 bits element 2i is the low nibble of byte i, 2i+1 the high.
 * - `scales` f32 `[N, K/32]`.
 * - `zeroPoints` f32 `[N, K/32]`; absent means 2^(bits - 1), the operator's default.
 *
 * weight = (q - zeroPoint) * scale
 */
export interface NBitsMatrix {
  bits: 4 | 8;
  rows: number;
  columns: number;
  qweight: Uint8Array;
  scales: Float32Array;
  zeroPoints: Float32Array | undefined;
}

/** An empty matrix to be filled in. @throws {ModelFileError} when a row is no whole number of blocks */
export function createNBitsMatrix(bits: 4 | 8, rows: number, columns: number, floatZeroPoints: boolean): NBitsMatrix {
  if (columns % BLOCK_SIZE !== 0) {
    throw new ModelFileError(`Cannot quantize rows of ${columns} weights: wanted a multiple of ${BLOCK_SIZE}`);
  }
  const blocks = rows * columns / BLOCK_SIZE;
  return {
    bits,
    rows,
    columns,
    qweight: new Uint8Array(rows * columns * bits / 8),
    scales: new Float32Array(blocks),
    zeroPoints: floatZeroPoints ? new Float32Array(blocks) : undefined,
  };
}

/** Row `r` of the result is row `order[r]` of `matrix`. */
export function reorderRows(matrix: NBitsMatrix, order: Uint32Array): NBitsMatrix {
  const result = createNBitsMatrix(matrix.bits, order.length, matrix.columns, matrix.zeroPoints !== undefined);
  const blocks = matrix.columns / BLOCK_SIZE;
  const bytes = matrix.columns * matrix.bits / 8;
  order.forEach((from, to) => {
    result.qweight.set(matrix.qweight.subarray(from * bytes, (from + 1) * bytes), to * bytes);
    result.scales.set(matrix.scales.subarray(from * blocks, (from + 1) * blocks), to * blocks);
    if (matrix.zeroPoints) {
      result.zeroPoints?.set(matrix.zeroPoints.subarray(from * blocks, (from + 1) * blocks), to * blocks);
    }
  });
  return result;
}

/**
 * The rows of all `parts`, one after another: several projections of the same input become one matrix product.
 * @throws {ModelFileError} when the parts differ in bits or columns
 */
export function concatRows(parts: readonly NBitsMatrix[]): NBitsMatrix {
  const first = parts[0];
  if (first === undefined) throw new RangeError("Cannot concatenate rows: no matrix came, wanted at least one");
  const rows = parts.reduce((sum, part) => sum + part.rows, 0);
  const result = createNBitsMatrix(first.bits, rows, first.columns, first.zeroPoints !== undefined);
  let row = 0;
  for (const part of parts) {
    const same = part.bits === first.bits && part.columns === first.columns &&
      (part.zeroPoints === undefined) === (first.zeroPoints === undefined);
    if (!same) {
      throw new ModelFileError(
        `Cannot fuse matrices: ${part.bits} bits x ${part.columns} columns beside ` +
          `${first.bits} bits x ${first.columns} columns, wanted one quantization for all`,
      );
    }
    const block = row * first.columns / BLOCK_SIZE;
    result.qweight.set(part.qweight, row * first.columns * first.bits / 8);
    result.scales.set(part.scales, block);
    if (part.zeroPoints) result.zeroPoints?.set(part.zeroPoints, block);
    row += part.rows;
  }
  return result;
}

/** Rows `from` to `to` (exclusive), a view. */
export function sliceRows(matrix: NBitsMatrix, from: number, to: number): NBitsMatrix {
  const blocks = matrix.columns / BLOCK_SIZE;
  const bytes = matrix.columns * matrix.bits / 8;
  return {
    ...matrix,
    rows: to - from,
    qweight: matrix.qweight.subarray(from * bytes, to * bytes),
    scales: matrix.scales.subarray(from * blocks, to * blocks),
    zeroPoints: matrix.zeroPoints?.subarray(from * blocks, to * blocks),
  };
}

/** The weights in f32 `[rows, columns]`, each step rounded to f32 as a kernel does. Slow and obvious: for checks. */
export function dequantizeNBits(matrix: NBitsMatrix): Float32Array {
  const { bits, qweight, scales, zeroPoints } = matrix;
  const weights = new Float32Array(matrix.rows * matrix.columns);
  for (let i = 0; i < weights.length; i++) {
    const block = Math.floor(i / BLOCK_SIZE);
    const q = bits === 8 ? qweight[i]! : (qweight[i >> 1]! >> (4 * (i & 1))) & 0x0f;
    const zeroPoint = zeroPoints ? zeroPoints[block]! : 2 ** (bits - 1);
    weights[i] = Math.fround(q - zeroPoint) * scales[block]!;
  }
  return weights;
}
