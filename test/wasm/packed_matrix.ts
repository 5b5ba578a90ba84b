import { Dot, type Kernels, rightDots, Weights } from "../../src/backend/simd/kernels.ts";
import type { MatMulNBitsWeights } from "../../src/model/matmul_nbits.ts";

/** Bytes that lie in the kernels' memory until disposed. */
export class Block implements Disposable {
  readonly pointer: number;
  constructor(readonly kernels: Kernels, readonly bytes: number) {
    this.pointer = kernels.exports.allocate(bytes);
  }
  /** A view; stale when memory grows. */
  get u8() {
    return new Uint8Array(this.kernels.memory.buffer, this.pointer, this.bytes);
  }
  get f32() {
    return new Float32Array(this.kernels.memory.buffer, this.pointer, this.bytes / 4);
  }
  put(values: Uint8Array | Float32Array): this {
    this.u8.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    return this;
  }
  [Symbol.dispose]() {
    this.kernels.exports.release(this.pointer, this.bytes);
  }
}

/** A `MatMulNBits` matrix in the kernels' layout, with the products that the tests compare. */
export class PackedMatrix implements Disposable {
  readonly form: Weights;
  readonly packed: Block;
  /** What packing returned. */
  readonly rounded: number;

  /** @param options `scalar`: packed without SIMD */
  constructor(readonly kernels: Kernels, readonly weights: MatMulNBitsWeights, options: { scalar?: boolean } = {}) {
    const { outFeatures: n, inFeatures: k, bits, qweight, scales, zeroPoints } = weights;
    const { exports } = kernels;
    this.form = bits === 8 ? Weights.Int8 : zeroPoints ? Weights.Int4Affine : Weights.Int4;
    this.packed = new Block(kernels, exports.matrix_bytes(this.form, n, k));
    using q = new Block(kernels, qweight.byteLength).put(qweight);
    using s = new Block(kernels, scales.byteLength).put(scales);
    using z = new Block(kernels, zeroPoints?.byteLength ?? 0).put(zeroPoints ?? new Uint8Array());
    const pack = options.scalar ? exports.scalar_pack : exports.pack;
    const packedZeros = zeroPoints instanceof Uint8Array;
    this.rounded = pack(this.form, n, k, q.pointer, s.pointer, z.pointer, packedZeros, this.packed.pointer);
  }

  /** f32 `[m, n]`; `scalar` for both quantizing and multiplying. `cuts`: panels, as threads would share them. */
  multiply(
    x: Float32Array,
    options: { tile: number; dot: Dot; expand: boolean; cuts?: number[] } | { tile: number; scalar: true },
  ): Float32Array {
    const { outFeatures: n, inFeatures: k } = this.weights;
    const { exports } = this.kernels;
    const m = x.length / k;
    using input = new Block(this.kernels, x.byteLength).put(x);
    using rows = new Block(this.kernels, exports.activation_bytes(m, k));
    using result = new Block(this.kernels, 4 * m * n);
    const { tile } = options;
    if ("scalar" in options) {
      exports.scalar_quantize_rows(input.pointer, m, k, tile, rows.pointer);
      exports.scalar_matmul(this.form, this.packed.pointer, n, rows.pointer, m, k, tile, result.pointer);
    } else {
      exports.quantize_rows(input.pointer, m, k, tile, rows.pointer, 0, m);
      // A kernel adds to what it finds: it has to clear that itself.
      result.f32.fill(NaN);
      const { dot, expand } = options;
      const cuts = [0, ...options.cuts ?? [], Math.ceil(n / 16)];
      for (let i = 1; i < cuts.length; i++) {
        exports.matmul(
          dot,
          this.form,
          this.packed.pointer,
          n,
          rows.pointer,
          m,
          k,
          tile,
          expand,
          result.pointer,
          cuts[i - 1]!,
          cuts[i]!,
        );
      }
    }
    return result.f32.slice();
  }

  /** f32 `[m, n]` of rows that are not quantized. */
  multiplyF32(x: Float32Array, scalar: boolean): Float32Array {
    const { outFeatures: n, inFeatures: k } = this.weights;
    const m = x.length / k;
    using input = new Block(this.kernels, x.byteLength).put(x);
    using result = new Block(this.kernels, 4 * m * n);
    result.f32.fill(NaN);
    const { exports } = this.kernels;
    exports.matmul_f32(this.form, this.packed.pointer, n, input.pointer, m, k, result.pointer, scalar);
    return result.f32.slice();
  }

  /** Every kernel of this build for this matrix. */
  get paths(): { tile: number; dot: Dot; expand: boolean }[] {
    const { exports } = this.kernels;
    const right = rightDots(this.kernels, this.form);
    // The relaxed forms take weights above 127 only where the engine says so.
    const usable = Object.values(Dot).filter((dot) =>
      dot === Dot.Plain || this.form !== Weights.Int8 || right.includes(dot)
    );
    return usable.flatMap((dot) =>
      [1, 2].flatMap((tile) =>
        [false, true].filter((expand) => exports.has_kernel(dot, this.form, tile, expand)).map((expand) => ({
          tile,
          dot,
          expand,
        }))
      )
    );
  }

  [Symbol.dispose]() {
    this.packed[Symbol.dispose]();
  }
}
