/**
 * ggml's Q8_0, 34 bytes for 32 weights, weight = d * q:
 * https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (`block_q8_0`)
 *
 * ```
 * byte  0    1   2     3          33
 *      [ d f16 ][q0  ][q1  ] ... [q31]     q is int8
 * ```
 *
 * MatMulNBits and GatherBlockQuantized with 8 bits hold q + 128 as uint8, and 128 is their default zero point: exact.
 */
import { ModelFileError } from "../src/errors.ts";
import { float16ToNumber } from "../src/model/float16.ts";
import { BLOCK_SIZE, createNBitsMatrix, type NBitsMatrix } from "./nbits_matrix.ts";

/** Bytes of one block of 32 weights. */
export const Q8_0_BLOCK_BYTES = 34;

/**
 * Q8_0 blocks `[rows, columns/32, 34]` as an 8-bit matrix of exactly the same weights.
 * @throws {ModelFileError} when `blocks` is not of that size
 */
export function repackQ8_0(blocks: Uint8Array, rows: number, columns: number): NBitsMatrix {
  const matrix = createNBitsMatrix(8, rows, columns, false);
  const view = blockView(blocks, rows, columns);
  for (let block = 0; block < matrix.scales.length; block++) {
    const start = block * Q8_0_BLOCK_BYTES;
    matrix.scales[block] = float16ToNumber(view.getUint16(start, true));
    // Flipping the top bit of a two's complement byte adds 128.
    for (let i = 0; i < BLOCK_SIZE; i++) matrix.qweight[block * BLOCK_SIZE + i] = blocks[start + 2 + i]! ^ 0x80;
  }
  return matrix;
}

/** The weights that ggml reads from Q8_0 blocks, f32 `[rows, columns]`: the definition that repacking is held to. */
export function dequantizeQ8_0(blocks: Uint8Array, rows: number, columns: number): Float32Array {
  const weights = new Float32Array(rows * columns);
  const view = blockView(blocks, rows, columns);
  for (let i = 0; i < weights.length; i++) {
    const start = Math.floor(i / BLOCK_SIZE) * Q8_0_BLOCK_BYTES;
    weights[i] = float16ToNumber(view.getUint16(start, true)) * view.getInt8(start + 2 + i % BLOCK_SIZE);
  }
  return weights;
}

function blockView(blocks: Uint8Array, rows: number, columns: number): DataView {
  const wanted = rows * columns / BLOCK_SIZE * Q8_0_BLOCK_BYTES;
  if (blocks.length !== wanted) {
    throw new ModelFileError(`Cannot read Q8_0 [${rows}, ${columns}]: ${blocks.length} bytes, wanted ${wanted}`);
  }
  return new DataView(blocks.buffer, blocks.byteOffset, blocks.byteLength);
}
