import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { expandMatMulNBits, type MatMulNBitsWeights } from "../../src/model/matmul_nbits.ts";

/** The definition, one element at a time. */
function naive(w: MatMulNBitsWeights): number[][] {
  const blocks = w.inFeatures / w.blockSize;
  return Array.from({ length: w.inFeatures }, (_, k) =>
    Array.from({ length: w.outFeatures }, (_, n) => {
      const block = Math.floor(k / w.blockSize);
      const at = n * w.inFeatures + k;
      const q = w.bits === 8 ? w.qweight[at]! : (w.qweight[at >> 1]! >> (at % 2 * 4)) & 15;
      const zeroPoint = () => {
        if (!w.zeroPoints) return w.bits === 8 ? 128 : 8;
        if (w.bits === 8 || w.zeroPoints instanceof Float32Array) return w.zeroPoints[n * blocks + block]!;
        return (w.zeroPoints[n * Math.ceil(blocks / 2) + (block >> 1)]! >> (block % 2 * 4)) & 15;
      };
      return Math.fround((q - zeroPoint()) * w.scales[n * blocks + block]!);
    }));
}

const shapes = fc.record({
  bits: fc.constantFrom(4, 8),
  blockSize: fc.constantFrom(16, 32),
  blocks: fc.integer({ min: 1, max: 5 }),
  outFeatures: fc.integer({ min: 1, max: 37 }),
  zeroPoints: fc.constantFrom("none", "float", "packed"),
});

test("expandMatMulNBits() is (q - zero point) * scale, transposed, for every kind of zero point", () => {
  fc.assert(
    fc.property(shapes, fc.infiniteStream(fc.nat(255)), (shape, stream) => {
      const { bits, blockSize, blocks, outFeatures } = shape;
      const inFeatures = blocks * blockSize;
      const bytes = (length: number) => Uint8Array.from({ length }, () => stream.next().value);
      const floats = (length: number) => Float32Array.from({ length }, () => stream.next().value / 17 - 5);
      const packed = bits === 8 ? outFeatures * blocks : outFeatures * Math.ceil(blocks / 2);
      const weights: MatMulNBitsWeights = {
        inFeatures,
        outFeatures,
        bits,
        blockSize,
        qweight: bytes(outFeatures * inFeatures * bits / 8),
        scales: floats(outFeatures * blocks),
        zeroPoints: { none: undefined, float: floats(outFeatures * blocks), packed: bytes(packed) }[shape.zeroPoints],
      };
      assert.deepEqual([...expandMatMulNBits(weights)], naive(weights).flat());
    }),
    { numRuns: 60 },
  );
});

test("expandMatMulNBits() refuses operands that do not fit the shape", () => {
  const good = {
    inFeatures: 32,
    outFeatures: 2,
    bits: 4,
    blockSize: 32,
    qweight: new Uint8Array(32),
    scales: new Float32Array(2),
    zeroPoints: undefined,
  };
  expandMatMulNBits(good);
  for (
    const wrong of [
      { qweight: new Uint8Array(31) },
      { scales: new Float32Array(3) },
      { zeroPoints: new Float32Array(1) },
      { bits: 3 },
      { blockSize: 24 },
    ]
  ) assert.throws(() => expandMatMulNBits({ ...good, ...wrong }), { name: "ModelFileError" });
});
