/**
 * ggml's Q4_0, 18 bytes for 32 weights, weight = d * (q - 8):
 * https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (`block_q4_0`)
 *
 * ```
 * byte  0    1   2        3        ...  17
 *      [ d f16 ][q16|q0 ][q17|q1 ] ... [q31|q15]     high nibble | low nibble
 * ```
 *
 * MatMulNBits with 4 bits and no zero points has the same weights, scale = d, and pairs neighbours:
 *
 * ```
 * byte  0        1             15
 *      [q1 |q0 ][q3 |q2 ] ... [q31|q30]
 * ```
 */
import { ModelFileError } from "../src/errors.ts";
import { float16ToNumber, numberToFloat16 } from "../src/model/float16.ts";
import { BLOCK_SIZE, type NBitsMatrix } from "./nbits_matrix.ts";

/** Bytes of one block of 32 weights. */
export const Q4_0_BLOCK_BYTES = 18;

/**
 * A symmetric 4-bit matrix as Q4_0 blocks `[rows, columns/32, 18]` of exactly the same weights.
 * @throws {ModelFileError} when it has other bits, zero points, or a scale that is no f16
 */
export function packQ4_0(matrix: NBitsMatrix): Uint8Array {
  const { bits, qweight, scales, zeroPoints } = matrix;
  if (bits !== 4 || zeroPoints !== undefined) {
    throw new ModelFileError(
      `Cannot write Q4_0: ${bits} bits ${zeroPoints ? "with" : "without"} zero points, wanted 4 without`,
    );
  }
  const blocks = new Uint8Array(scales.length * Q4_0_BLOCK_BYTES);
  for (let block = 0; block < scales.length; block++) {
    const start = block * Q4_0_BLOCK_BYTES;
    const d = numberToFloat16(scales[block]!);
    if (float16ToNumber(d) !== scales[block]) {
      throw new ModelFileError(
        `Cannot write Q4_0: block ${block} has scale ${scales[block]}, wanted one that f16 holds`,
      );
    }
    blocks[start] = d & 0xff;
    blocks[start + 1] = d >> 8;
    const packed = block * BLOCK_SIZE / 2;
    for (let i = 0; i < 8; i++) {
      const [first, second] = [qweight[packed + i]!, qweight[packed + i + 8]!];
      blocks[start + 2 + 2 * i] = (first & 0x0f) | ((second & 0x0f) << 4);
      blocks[start + 3 + 2 * i] = (first >> 4) | (second & 0xf0);
    }
  }
  return blocks;
}

/** The weights that ggml reads from Q4_0 blocks, f32 `[rows, columns]`: the definition that packing is held to. */
export function dequantizeQ4_0(blocks: Uint8Array, rows: number, columns: number): Float32Array {
  const wanted = rows * columns / BLOCK_SIZE * Q4_0_BLOCK_BYTES;
  if (blocks.length !== wanted) {
    throw new ModelFileError(`Cannot read Q4_0 [${rows}, ${columns}]: ${blocks.length} bytes, wanted ${wanted}`);
  }
  const weights = new Float32Array(rows * columns);
  for (let i = 0; i < weights.length; i++) {
    const start = Math.floor(i / BLOCK_SIZE) * Q4_0_BLOCK_BYTES;
    const j = i % BLOCK_SIZE;
    const q = (blocks[start + 2 + j % 16]! >> (j < 16 ? 0 : 4)) & 0x0f;
    weights[i] = float16ToNumber(blocks[start]! | (blocks[start + 1]! << 8)) * (q - 8);
  }
  return weights;
}
