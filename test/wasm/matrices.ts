import type { MatMulNBitsWeights } from "../../src/model/matmul_nbits.ts";
import { randomBytes } from "../models/random_bytes.ts";

/** Forms that weights come in. `int4 float` has the zero points of GGML's Q4_1: -min / scale, both f16. */
export const FORMS = ["int4", "int4 float", "int4 packed", "int8"] as const;
export type Form = typeof FORMS[number];

export const CONTENTS = ["random", "lowest", "highest", "subnormal scales", "zero scales"] as const;
export type Content = typeof CONTENTS[number];

/** A matrix whose scales f16 holds exactly. */
export function makeMatrix(form: Form, n: number, k: number, content: Content, seed = 1): MatMulNBitsWeights {
  const bits = form === "int8" ? 8 : 4;
  const blocks = k / 32;
  const count = n * blocks;
  const fill = { lowest: 0, highest: 255 }[content as string];
  const qweight = fill === undefined
    ? randomBytes(n * k * bits / 8, seed)
    : new Uint8Array(n * k * bits / 8).fill(fill);
  const noise = randomBytes(3 * count, seed + 1);
  const scales = Float32Array.from({ length: count }, (_, i) => {
    const sign = noise[3 * i]! & 1 ? -1 : 1;
    if (content === "zero scales") return sign * 0;
    // The last bits of f16: multiples of 2^-24 below 2^-14, else eleven bits.
    if (content === "subnormal scales") return sign * noise[3 * i + 1]! * 2 ** -24;
    return sign * (1024 + 4 * noise[3 * i + 1]! + 1) * 2 ** (-20 + noise[3 * i + 2]! % 4);
  });
  if (form === "int4" || form === "int8") {
    return { inFeatures: k, outFeatures: n, bits, blockSize: 32, qweight, scales, zeroPoints: undefined };
  }
  const zeroPoints = form === "int4 float"
    ? scales.map((scale, i) => scale === 0 ? 0 : -((noise[3 * i + 2]! - 128) * 2 ** -10) / scale)
    : randomBytes(n * Math.ceil(blocks / 2), seed + 2);
  return { inFeatures: k, outFeatures: n, bits, blockSize: 32, qweight, scales, zeroPoints };
}

/** Rows `[m, k]` of magnitudes from 2^-8 to 2^8, one block of zeros among them. */
export function makeRows(m: number, k: number, seed = 7): Float32Array {
  const noise = randomBytes(3 * m * k, seed);
  return Float32Array.from({ length: m * k }, (_, i) => {
    const block = Math.floor(i / 32);
    if (block % 5 === 3) return 0;
    const value = (noise[3 * i]! - 127.5) / 127 + noise[3 * i + 1]! / 4096;
    return value * 2 ** (block % 17 - 8);
  });
}

/** Rows whose quants are all 127, all -127, or both in turn: the ends of every sum. */
export function makeExtremeRows(m: number, k: number): Float32Array {
  return Float32Array.from({ length: m * k }, (_, i) => {
    const row = Math.floor(i / k) % 4;
    return row === 0 ? 2 : row === 1 ? -2 : row === 2 ? (i % 2 ? 2 : -2) : i % 32 < 16 ? 2 : -2;
  });
}
