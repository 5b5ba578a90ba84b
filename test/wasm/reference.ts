import type { MatMulNBitsWeights } from "../../src/model/matmul_nbits.ts";

/** What the kernels round activations to, a block of 32 at a time: q and the scale, in f32 arithmetic. */
function quantizeBlock(x: Float32Array): { q: number[]; scale: number } {
  const amax = x.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  const factor = Math.fround(127 / amax);
  if (!Number.isFinite(factor)) return { q: Array(32).fill(0), scale: 0 };
  return { q: Array.from(x, (value) => roundTiesEven(Math.fround(value * factor))), scale: Math.fround(amax / 127) };
}

function roundTiesEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/**
 * The product of the operands as the model file has them, in f64: it knows nothing of the layout.
 * @returns values f64 `[m, n]`, and for each the sum of its terms' sizes, which its rounding is measured by
 */
export function referenceProduct(x: Float32Array, w: MatMulNBitsWeights): { values: number[]; sizes: number[] } {
  const { inFeatures: k, outFeatures: n, bits } = w;
  const blocks = k / 32;
  const values: number[] = [];
  const sizes: number[] = [];
  for (let row = 0; row < x.length / k; row++) {
    const quantized = Array.from({ length: blocks }, (_, block) => {
      const at = row * k + block * 32;
      return quantizeBlock(x.subarray(at, at + 32));
    });
    for (let output = 0; output < n; output++) {
      let value = 0;
      let size = 0;
      quantized.forEach(({ q, scale }, block) => {
        const d = w.scales[output * blocks + block]!;
        const zero = zeroPoint(w, output, block);
        q.forEach((xq, i) => {
          const at = output * k + block * 32 + i;
          const wq = bits === 8 ? w.qweight[at]! : (w.qweight[at >> 1]! >> (at % 2 * 4)) & 15;
          value += xq * scale * (wq - zero) * d;
          // Quants and zero point are added up apart in the affine form.
          size += Math.abs(xq * scale * d) * (wq + Math.abs(zero));
        });
      });
      values.push(value);
      sizes.push(size);
    }
  }
  return { values, sizes };
}

function zeroPoint(w: MatMulNBitsWeights, row: number, block: number): number {
  const blocks = w.inFeatures / 32;
  if (!w.zeroPoints) return w.bits === 8 ? 128 : 8;
  if (w.zeroPoints instanceof Float32Array) return w.zeroPoints[row * blocks + block]!;
  return (w.zeroPoints[row * Math.ceil(blocks / 2) + (block >> 1)]! >> (block % 2 * 4)) & 15;
}
