/**
 * ggml's Q4_1, 20 bytes for 32 weights, weight = d * q + m:
 * https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (`block_q4_1`)
 *
 * ```
 * byte  0    1   2    3   4        5        ...  19
 *      [ d f16 ][ m f16 ][q16|q0 ][q17|q1 ] ... [q31|q15]     high nibble | low nibble
 * ```
 *
 * MatMulNBits pairs neighbours instead, and has a zero point in place of the minimum:
 *
 * ```
 * byte  0        1             15
 *      [q1 |q0 ][q3 |q2 ] ... [q31|q30]     scale = d, zero point = -m / d
 * ```
 *
 * A float zero point keeps Q4_1 as it is; a uint8 one would round the weights a second time.
 */
import { ModelFileError } from "../src/errors.ts";
import { float16ToNumber } from "../src/model/float16.ts";
import { BLOCK_SIZE, createNBitsMatrix, type NBitsMatrix } from "./nbits_matrix.ts";

/** Bytes of one block of 32 weights. */
export const Q4_1_BLOCK_BYTES = 20;

/**
 * Q4_1 blocks `[rows, columns/32, 20]` as a 4-bit matrix of the same weights, up to f32 rounding of the zero point.
 * @throws {ModelFileError} when `blocks` is not of that size
 */
export function repackQ4_1(blocks: Uint8Array, rows: number, columns: number): NBitsMatrix {
  const matrix = createNBitsMatrix(4, rows, columns, true);
  const view = blockView(blocks, rows, columns);
  for (let block = 0; block < matrix.scales.length; block++) {
    const start = block * Q4_1_BLOCK_BYTES;
    const d = float16ToNumber(view.getUint16(start, true));
    const m = float16ToNumber(view.getUint16(start + 2, true));
    const quants = blocks.subarray(start + 4, start + Q4_1_BLOCK_BYTES);
    const packed = matrix.qweight.subarray(block * 16, (block + 1) * 16);
    if (d === 0) {
      // All 32 weights equal m, and m / d has no value: say (1 - 0) * m.
      packed.fill(0x11);
      matrix.scales[block] = m;
      matrix.zeroPoints![block] = 0;
      continue;
    }
    for (let i = 0; i < 8; i++) {
      const [even, odd] = [quants[2 * i]!, quants[2 * i + 1]!];
      packed[i] = (even & 0x0f) | ((odd & 0x0f) << 4);
      packed[i + 8] = (even >> 4) | (odd & 0xf0);
    }
    matrix.scales[block] = d;
    matrix.zeroPoints![block] = m === 0 ? 0 : -m / d;
  }
  return matrix;
}

/** The weights that ggml reads from Q4_1 blocks, f32 `[rows, columns]`: the definition that repacking is held to. */
export function dequantizeQ4_1(blocks: Uint8Array, rows: number, columns: number): Float32Array {
  const weights = new Float32Array(rows * columns);
  const view = blockView(blocks, rows, columns);
  for (let i = 0; i < weights.length; i++) {
    const start = Math.floor(i / BLOCK_SIZE) * Q4_1_BLOCK_BYTES;
    const j = i % BLOCK_SIZE;
    const q = (view.getUint8(start + 4 + j % 16) >> (j < 16 ? 0 : 4)) & 0x0f;
    const d = float16ToNumber(view.getUint16(start, true));
    weights[i] = d * q + float16ToNumber(view.getUint16(start + 2, true));
  }
  return weights;
}

function blockView(blocks: Uint8Array, rows: number, columns: number): DataView {
  const wanted = rows * columns / BLOCK_SIZE * Q4_1_BLOCK_BYTES;
  if (blocks.length !== wanted) {
    throw new ModelFileError(`Cannot read Q4_1 [${rows}, ${columns}]: ${blocks.length} bytes, wanted ${wanted}`);
  }
  return new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength);
}
