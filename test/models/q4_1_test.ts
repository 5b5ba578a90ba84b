import assert from "node:assert/strict";
import { test } from "node:test";
import { dequantizeNBits } from "../../models/nbits_matrix.ts";
import { dequantizeQ4_1, repackQ4_1 } from "../../models/q4_1.ts";
import { dequantizeQ8_0, repackQ8_0 } from "../../models/q8_0.ts";
import { ModelFileError } from "../../src/errors.ts";
import { randomBytes } from "./random_bytes.ts";

/** One Q4_1 block: f16 bits of d and m, then quants that count 0..15 and back. */
function block(d: number, m: number): Uint8Array {
  const bytes = new Uint8Array(20);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, d, true);
  view.setUint16(2, m, true);
  for (let i = 0; i < 16; i++) bytes[4 + i] = i | ((15 - i) << 4);
  return bytes;
}

/**
 * Four roundings to f32 separate (q - zp) * d from d * q + m: of -m / d, of the difference, of the product, and of the
 * reference. Each is at most half a unit in the last place of something no larger than |m| + 15 |d|.
 */
function assertSameWeights(blocks: Uint8Array, rows: number, columns: number): void {
  const got = dequantizeNBits(repackQ4_1(blocks, rows, columns));
  const want = dequantizeQ4_1(blocks, rows, columns);
  for (let start = 0; start < want.length; start += 32) {
    const largest = Math.max(...want.subarray(start, start + 32).map(Math.abs));
    for (let i = start; i < start + 32; i++) {
      const error = Math.abs(got[i]! - want[i]!);
      assert.ok(error <= 2 * 4 * 2 ** -24 * largest, `weight ${i}: ${got[i]}, wanted ${want[i]}`);
    }
  }
}

test("repackQ4_1() pairs neighbours, low nibble first", () => {
  const { qweight, scales, zeroPoints } = repackQ4_1(block(0x3c00, 0xbc00), 1, 32); // d 1, m -1
  // Elements 0..15 are 0..15 and elements 16..31 are 15..0.
  assert.deepEqual([...qweight], [
    0x10,
    0x32,
    0x54,
    0x76,
    0x98,
    0xba,
    0xdc,
    0xfe,
    0xef,
    0xcd,
    0xab,
    0x89,
    0x67,
    0x45,
    0x23,
    0x01,
  ]);
  assert.deepEqual([scales[0], zeroPoints?.[0]], [1, 1]);
});

test("repackQ4_1() keeps random weights", () => {
  const [rows, columns] = [7, 96];
  const blocks = randomBytes(rows * columns / 32 * 20, 1);
  for (let i = 0; i < blocks.length; i += 20) {
    // Exponents below 16 keep d and m finite.
    blocks[i + 1]! &= 0xbf;
    blocks[i + 3]! &= 0xbf;
  }
  assertSameWeights(blocks, rows, columns);
});

test("repackQ4_1() keeps a constant block, where -m / d has no value", () => {
  for (const m of [0x0000, 0x8000, 0x3c00, 0xc500, 0x7bff, 0x0001]) {
    const blocks = block(0, m);
    // ggml's 0 * q + -0 is 0; ours may keep the sign of that zero.
    const got = dequantizeNBits(repackQ4_1(blocks, 1, 32)).map((weight) => weight + 0);
    assert.deepEqual(got, dequantizeQ4_1(blocks, 1, 32));
  }
});

test("repackQ4_1() keeps the extremes of f16", () => {
  const [smallest, largest, one] = [0x0001, 0x7bff, 0x3c00];
  for (const d of [smallest, largest, one, 0x8000 | smallest, 0x8000 | largest]) {
    for (const m of [0, smallest, largest, one, 0x8000 | smallest, 0x8000 | largest]) {
      assertSameWeights(block(d, m), 1, 32);
    }
  }
});

test("repackQ8_0() keeps each weight exactly", () => {
  const [rows, columns] = [5, 64];
  const blocks = randomBytes(rows * columns / 32 * 34, 2);
  for (let i = 0; i < blocks.length; i += 34) blocks[i + 1]! &= 0xbf;
  blocks[2] = 0x80; // -128
  assert.deepEqual(dequantizeNBits(repackQ8_0(blocks, rows, columns)), dequantizeQ8_0(blocks, rows, columns));
});

test("repackQ4_1() refuses bytes of another size", () => {
  assert.throws(() => repackQ4_1(new Uint8Array(19), 1, 32), ModelFileError);
  assert.throws(() => repackQ4_1(new Uint8Array(20), 1, 33), ModelFileError);
});
