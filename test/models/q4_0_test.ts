import assert from "node:assert/strict";
import { test } from "node:test";
import { dequantizeNBits } from "../../models/nbits_matrix.ts";
import { dequantizeQ4_0, packQ4_0 } from "../../models/q4_0.ts";
import { ModelFileError } from "../../src/errors.ts";
import { float16ToNumber } from "../../src/model/float16.ts";
import { randomBytes } from "./random_bytes.ts";

/** Random nibbles; scales that f16 holds, of both signs. */
function randomMatrix(rows: number, columns: number) {
  const blocks = rows * columns / 32;
  const scales = Float32Array.from(randomBytes(blocks, 1), (byte) => float16ToNumber(0x1c00 + 16 * (byte - 128)));
  return {
    rows,
    columns,
    bits: 4 as const,
    qweight: randomBytes(rows * columns / 2, 2),
    scales,
    zeroPoints: undefined,
  };
}

test("packQ4_0() keeps every weight", () => {
  const [rows, columns] = [7, 96];
  const matrix = randomMatrix(rows, columns);
  assert.deepEqual(dequantizeQ4_0(packQ4_0(matrix), rows, columns), dequantizeNBits(matrix));
});

test("packQ4_0() refuses what Q4_0 cannot say", () => {
  const matrix = randomMatrix(1, 32);
  const refused = (change: object, message: RegExp) =>
    assert.throws(() => packQ4_0({ ...matrix, ...change }), (error) => {
      assert.ok(error instanceof ModelFileError);
      assert.match(error.message, message);
      return true;
    });
  refused({ bits: 8 }, /8 bits/);
  refused({ zeroPoints: new Uint8Array(1) }, /with zero points/);
  refused({ scales: new Float32Array([0.1]) }, /block 0 has scale 0\.1/);
});
