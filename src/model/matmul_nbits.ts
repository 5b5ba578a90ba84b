import { ModelFileError } from "../errors.ts";

/**
 * The operands of a `MatMulNBits`: an `[out, in]` matrix in blocks of `blockSize` columns.
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
 */
export interface MatMulNBitsWeights {
  /** K: columns, what goes in. */
  inFeatures: number;
  /** N: rows, what comes out. */
  outFeatures: number;
  bits: number;
  blockSize: number;
  /** u8 `[N, K/blockSize, blockSize*bits/8]`, for 4 bits the low half first. */
  qweight: Uint8Array;
  /** f32 `[N, K/blockSize]` */
  scales: Float32Array;
  /** f32 like `scales`, or `bits` wide and packed by row; absent means the middle, 8 or 128. */
  zeroPoints: Float32Array | Uint8Array | undefined;
}

/** Rows expanded together: what is written per column is one cache line. */
const TILE = 16;

/**
 * Expands quantized weights to f32 `[K, N]`, the second operand of `MatMul`: `(q - zero_point) * scale`.
 * @throws {ModelFileError} when an operand's length does not fit its shape
 */
export function expandMatMulNBits(weights: MatMulNBitsWeights): Float32Array<ArrayBuffer> {
  checkLengths(weights);
  const { inFeatures, outFeatures, bits, blockSize, qweight, scales } = weights;
  const blocks = inFeatures / blockSize;
  const blobBytes = blockSize * bits / 8;
  const zeroPoint = zeroPointReader(weights);
  const out = new Float32Array(inFeatures * outFeatures);
  const scale = new Float64Array(TILE);
  const zero = new Float64Array(TILE);
  for (let row = 0; row < outFeatures; row += TILE) {
    const rows = Math.min(TILE, outFeatures - row);
    for (let block = 0; block < blocks; block++) {
      for (let r = 0; r < rows; r++) {
        scale[r] = scales[(row + r) * blocks + block]!;
        zero[r] = zeroPoint(row + r, block);
      }
      for (let k = 0; k < blockSize; k++) {
        const target = (block * blockSize + k) * outFeatures + row;
        let source = (row * blocks + block) * blobBytes + (bits === 4 ? k >> 1 : k);
        for (let r = 0; r < rows; r++, source += blocks * blobBytes) {
          const byte = qweight[source]!;
          const q = bits === 8 ? byte : k & 1 ? byte >> 4 : byte & 15;
          out[target + r] = (q - zero[r]!) * scale[r]!;
        }
      }
    }
  }
  return out;
}

function zeroPointReader(weights: MatMulNBitsWeights): (row: number, block: number) => number {
  const { zeroPoints, bits, inFeatures, blockSize } = weights;
  const blocks = inFeatures / blockSize;
  if (zeroPoints === undefined) return () => 1 << (bits - 1);
  if (zeroPoints instanceof Float32Array || bits === 8) return (row, block) => zeroPoints[row * blocks + block]!;
  const rowBytes = Math.ceil(blocks / 2);
  return (row, block) => (zeroPoints[row * rowBytes + (block >> 1)]! >> (block & 1 ? 4 : 0)) & 15;
}

function checkLengths(weights: MatMulNBitsWeights): void {
  const { inFeatures, outFeatures, bits, blockSize, qweight, scales, zeroPoints } = weights;
  if ((bits !== 4 && bits !== 8) || inFeatures % blockSize !== 0) {
    throw new ModelFileError(
      `Cannot expand MatMulNBits: ${bits} bits in blocks of ${blockSize} over ${inFeatures} columns, ` +
        "wanted 4 or 8 bits in whole blocks",
    );
  }
  const blocks = inFeatures / blockSize;
  const zeroPointCount = zeroPoints instanceof Float32Array || bits === 8
    ? outFeatures * blocks
    : outFeatures * Math.ceil(blocks / 2);
  if (
    qweight.length !== outFeatures * inFeatures * bits / 8 || scales.length !== outFeatures * blocks ||
    (zeroPoints !== undefined && zeroPoints.length !== zeroPointCount)
  ) {
    throw new ModelFileError(
      `Cannot expand MatMulNBits [${outFeatures}, ${inFeatures}]: ${qweight.length} weight bytes, ` +
        `${scales.length} scales, ${zeroPoints?.length ?? 0} zero points do not fit its shape`,
    );
  }
}
