import { float16ToNumber, numberToFloat16 } from "../src/model/float16.ts";
import { BLOCK_SIZE, createNBitsMatrix, type NBitsMatrix } from "./nbits_matrix.ts";

/** Standard deviation of {@linkcode RandomWeights.next}: four bytes, each with variance (256^2 - 1) / 12. */
export const DRAW_DEVIATION = Math.sqrt(4 * (256 ** 2 - 1) / 12);
/** The mean of four bytes' sum. */
const DRAW_MEAN = 510;

/**
 * Nearly normal integers, the same for the same seed and name on every engine: only integer arithmetic.
 * The generator is sfc32 of PractRand (http://pracrand.sourceforge.net), seeded by FNV-1a of seed and name.
 */
export class RandomWeights {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number, name: string) {
    let hash = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(`${seed}/${name}`)) hash = Math.imul(hash ^ byte, 0x01000193);
    this.#a = hash | 0;
    this.#b = Math.imul(hash, 0x9e3779b1) | 0;
    this.#c = seed | 0;
    this.fill(new Int16Array(16));
  }

  /** Fills `draws` with sums of four random bytes less their mean, -510..510: as a normal one up to 3.4 deviations. */
  fill(draws: Int16Array): void {
    let [a, b, c, counter] = [this.#a, this.#b, this.#c, this.#counter];
    for (let i = 0; i < draws.length; i++) {
      const x = (a + b + counter) | 0;
      counter = (counter + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = ((c << 21) | (c >>> 11)) + x | 0;
      const pairs = (x & 0x00ff00ff) + ((x >>> 8) & 0x00ff00ff);
      draws[i] = (pairs & 0xffff) + (pairs >>> 16) - DRAW_MEAN;
    }
    [this.#a, this.#b, this.#c, this.#counter] = [a, b, c, counter];
  }
}

/**
 * A random matrix quantized to int4, block 32, symmetric, by the rule that onnxruntime's default quantizer and ggml's
 * Q4_0 share: scale = (the value of largest magnitude, with its sign) / -8, q = floor(value / scale + 8.5), at most
 * 15. Scales are rounded to f16 before q is chosen, so both files hold the same weights.
 * https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c (`quantize_row_q4_0_ref`)
 * @param deviations the standard deviation of each row's weights
 */
export function randomInt4(
  random: RandomWeights,
  rows: number,
  columns: number,
  deviations: (row: number) => number,
): NBitsMatrix {
  const matrix = createNBitsMatrix(4, rows, columns, false);
  const { qweight, scales } = matrix;
  const draws = new Int16Array(columns);
  let block = 0;
  for (let row = 0; row < rows; row++) {
    const unit = deviations(row) / DRAW_DEVIATION;
    random.fill(draws);
    for (let start = 0; start < columns; start += BLOCK_SIZE, block++) {
      let extreme = 0;
      for (let i = start; i < start + BLOCK_SIZE; i++) {
        if (Math.abs(draws[i]!) > Math.abs(extreme)) extreme = draws[i]!;
      }
      const scale = float16ToNumber(numberToFloat16(extreme * unit / -8));
      const inverse = scale === 0 ? 0 : unit / scale;
      for (let i = 0; i < BLOCK_SIZE; i += 2) {
        const low = Math.min(15, Math.floor(draws[start + i]! * inverse + 8.5));
        const high = Math.min(15, Math.floor(draws[start + i + 1]! * inverse + 8.5));
        qweight[(block * BLOCK_SIZE + i) >> 1] = low | (high << 4);
      }
      scales[block] = scale;
    }
  }
  return matrix;
}

/** `mean` plus draws times `unit`, f32 `[count]`: exact when both are powers of two. */
export function randomFloats(random: RandomWeights, count: number, mean: number, unit: number): Float32Array {
  const draws = new Int16Array(count);
  random.fill(draws);
  return Float32Array.from(draws, (draw) => mean + draw * unit);
}
