import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  Dot,
  type Kernels,
  loadKernels,
  loadVariant,
  rightDots,
  VARIANTS,
  Weights,
} from "../../src/backend/simd/kernels.ts";
import { CONTENTS, FORMS, makeExtremeRows, makeMatrix, makeRows } from "./matrices.ts";
import { Block, PackedMatrix } from "./packed_matrix.ts";
import { referenceProduct } from "./reference.ts";

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** N of one panel, less, more; K of one block, of more than a slice of the expanded form, and of its multiple. */
const SHAPES = [[16, 32], [1, 64], [17, 416], [45, 96], [32, 768]] as const;

/** Compares every kernel with the scalar product bit by bit, and that with the reference. */
function checkProducts(matrix: PackedMatrix, x: Float32Array, tolerance: number, name: string) {
  const { values, sizes } = referenceProduct(x, matrix.weights);
  const expected = matrix.multiply(x, { tile: 1, scalar: true });
  expected.forEach((value, i) => {
    const error = Math.abs(value - values[i]!);
    assert.ok(error <= sizes[i]! * tolerance, `${name}: [${i}] is ${value}, the reference ${values[i]}`);
  });
  for (const path of matrix.paths) {
    const scalar = matrix.multiply(x, { tile: path.tile, scalar: true });
    assert.deepEqual(bits(scalar), bits(expected), `${name}: scalar, tile ${path.tile}`);
    const result = matrix.multiply(x, path);
    assert.deepEqual(bits(result), bits(expected), `${name}: ${JSON.stringify(path)}`);
  }
}

// Before describe(), whose tests Deno only registers while it runs synchronously.
const loaded: Kernels[] = [];
for (const variant of VARIANTS) loaded.push(await loadVariant(variant));

for (const kernels of loaded) {
  const { variant } = kernels;
  describe(`kernels, ${variant}`, () => {
    for (const form of FORMS) {
      test(`${form} products have the scalar product's bits and the reference's values`, () => {
        for (const [n, k] of SHAPES) {
          for (const content of CONTENTS) {
            using matrix = new PackedMatrix(kernels, makeMatrix(form, n, k, content));
            assert.notEqual(matrix.rounded, -1);
            // Minima of packed zero points need more bits than f16 has.
            const tolerance = form === "int4 packed" ? 2 ** -11 : (k / 32 + 6) * 2 ** -23;
            for (const m of [1, 2, 3, 4, 5, 9]) {
              checkProducts(matrix, makeRows(m, k, m), tolerance, `${m} rows of [${n}, ${k}], ${content}`);
            }
            checkProducts(matrix, makeExtremeRows(7, k), tolerance, `extremes of [${n}, ${k}], ${content}`);
          }
        }
      });
    }

    test("f32 rows: the scalar product's bits, for a row alone as beside others", () => {
      for (const form of FORMS) {
        for (const [n, k] of SHAPES) {
          using matrix = new PackedMatrix(kernels, makeMatrix(form, n, k, "random"));
          const x = makeRows(5, k);
          const expected = matrix.multiplyF32(x, true);
          assert.deepEqual(bits(matrix.multiplyF32(x, false)), bits(expected), `${form} [${n}, ${k}]`);
          const alone = matrix.multiplyF32(x.slice(3 * k, 4 * k), false);
          assert.deepEqual(bits(alone), bits(expected.subarray(3 * n, 4 * n)));
        }
      }
    });

    test("packing gives the scalar packing's bytes", () => {
      for (const form of FORMS) {
        for (const [n, k] of SHAPES) {
          for (const content of CONTENTS) {
            using matrix = new PackedMatrix(kernels, makeMatrix(form, n, k, content));
            using scalar = new PackedMatrix(kernels, matrix.weights, { scalar: true });
            assert.deepEqual(matrix.packed.u8, scalar.packed.u8, `${form} [${n}, ${k}], ${content}`);
            assert.equal(matrix.rounded, scalar.rounded);
          }
        }
      }
    });

    test("packing loses nothing of f16 scales, says what it rounds and refuses what f16 cannot hold", () => {
      const matrix = makeMatrix("int4", 20, 64, "random");
      using exact = new PackedMatrix(kernels, matrix);
      assert.equal(exact.rounded, 0);
      matrix.scales[3] = 1 / 3;
      matrix.scales[7] = 2 ** -25 * 1.5;
      using rounded = new PackedMatrix(kernels, matrix);
      assert.equal(rounded.rounded, 2);
      for (const value of [65520, -1e9, Infinity, NaN]) {
        matrix.scales[5] = value;
        using overflowed = new PackedMatrix(kernels, matrix);
        assert.equal(overflowed.rounded, -1);
      }
    });

    test("a block with NaN or infinity makes its row NaN and no other", () => {
      using matrix = new PackedMatrix(kernels, makeMatrix("int4", 16, 64, "random"));
      for (const value of [NaN, Infinity, -Infinity]) {
        const x = makeRows(3, 64);
        x[64 + 40] = value;
        for (const path of matrix.paths) {
          const result = matrix.multiply(x, path);
          result.forEach((v, i) => assert.equal(Number.isNaN(v), i >= 16 && i < 32, `${value} at ${i}`));
        }
      }
    });

    test("rows are quantized alike with and without SIMD, whatever they hold", () => {
      const x = makeRows(7, 128);
      x.set([1e-45, 3e-38, -1e-37, 3.4e38, 0.5, 1.5, -2.5, 127], 0);
      x.set([2e-38, -1e-40], 32);
      x.set([NaN, Infinity], 256);
      using input = new Block(kernels, x.byteLength).put(x);
      const bytes = kernels.exports.activation_bytes(7, 128);
      using simd = new Block(kernels, bytes);
      using scalar = new Block(kernels, bytes);
      for (const tile of [1, 2]) {
        // Two threads' shares.
        kernels.exports.quantize_rows(input.pointer, 7, 128, tile, simd.pointer, 0, 4);
        kernels.exports.quantize_rows(input.pointer, 7, 128, tile, simd.pointer, 4, 7);
        kernels.exports.scalar_quantize_rows(input.pointer, 7, 128, tile, scalar.pointer);
        assert.deepEqual(simd.u8.slice(), scalar.u8.slice(), `tile ${tile}`);
      }
    });

    test("Phi-3's widest row and a panel's blocks share a first-level cache of 32 KiB", () => {
      // With its numbers written four times that row was read from the next cache: a lone row took 1.25 times as long.
      assert.ok(kernels.exports.activation_bytes(1, 8192) <= 16 * 1024);
    });

    test("the chosen instructions pass the self-test, again and again", () => {
      for (const weights of Object.values(Weights)) {
        const dots = rightDots(kernels, weights);
        for (let i = 0; i < 200; i++) assert.ok(dots.every((dot) => kernels.exports.self_test(dot, weights)));
      }
      if (variant !== "relaxed-threads") assert.deepEqual(Object.values(kernels.dots), [0, 0, 0]);
    });
  });
}

test("loadKernels() finds a build", async () => {
  const kernels = await loadKernels();
  assert.ok(kernels);
  assert.ok(kernels.memory.buffer.byteLength > 0);
  assert.notEqual(kernels.dots[Weights.Int4], undefined);
  assert.ok(Object.values(Dot).includes(kernels.dots[Weights.Int8]));
});
