import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { loadVariant, VARIANTS } from "../../src/backend/simd/kernels.ts";
import { CONTENTS, FORMS, makeMatrix, makeRows } from "./matrices.ts";
import { PackedMatrix } from "./packed_matrix.ts";

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

const shapes = fc.record({
  form: fc.constantFrom(...FORMS),
  content: fc.constantFrom(...CONTENTS),
  n: fc.integer({ min: 1, max: 50 }),
  blocks: fc.integer({ min: 1, max: 30 }),
  m: fc.oneof(fc.constantFrom(2, 4, 8, 64), fc.integer({ min: 1, max: 20 })),
  seed: fc.nat(1000),
  cut: fc.integer({ min: 0, max: 3 }),
});

for (const variant of VARIANTS) {
  test(`a row's product has the same bits alone and among others, ${variant}`, async () => {
    const kernels = await loadVariant(variant);
    fc.assert(
      fc.property(shapes, ({ form, content, n, blocks, m, seed, cut }) => {
        const k = 32 * blocks;
        using matrix = new PackedMatrix(kernels, makeMatrix(form, n, k, content, seed));
        const x = makeRows(m, k, seed);
        const paths = matrix.paths;
        const alone = paths.find(({ tile }) => tile === 1)!;
        const expected = Float32Array.from(
          Array.from({ length: m }, (_, row) => [...matrix.multiply(x.subarray(row * k, (row + 1) * k), alone)]).flat(),
        );
        for (const path of paths) {
          const cuts = cut < Math.ceil(n / 16) ? [cut] : [];
          assert.deepEqual(bits(matrix.multiply(x, { ...path, cuts })), bits(expected), JSON.stringify(path));
        }
      }),
      { numRuns: 150 },
    );
  });
}
