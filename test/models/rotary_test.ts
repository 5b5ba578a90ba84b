import assert from "node:assert/strict";
import { test } from "node:test";
import { halfRotaryRowOrder, rotaryCaches } from "../../models/rotary.ts";

test("halfRotaryRowOrder() undoes the GGUF converter's permutation", () => {
  const [heads, headDim] = [3, 8];
  const half = headDim / 2;
  // What the converter does, `reshape(heads, 2, half).swapaxes(1, 2)`, on rows numbered in Hugging Face's order.
  const gguf: number[] = [];
  for (let head = 0; head < heads; head++) {
    for (let j = 0; j < half; j++) {
      for (let side = 0; side < 2; side++) gguf.push(head * headDim + side * half + j);
    }
  }
  const undone = [...halfRotaryRowOrder(heads * headDim, headDim)].map((row) => gguf[row]);
  assert.deepEqual(undone, Array.from({ length: heads * headDim }, (_, row) => row));
});

test("rotaryCaches() is [context_length, head_dim/2] and starts unturned", () => {
  const { cos, sin } = rotaryCaches(4, 8, 10_000);
  assert.equal(cos.length, 16);
  assert.deepEqual([...cos.subarray(0, 4), ...sin.subarray(0, 4)], [1, 1, 1, 1, 0, 0, 0, 0]);
  assert.equal(cos[2 * 4 + 1], Math.fround(Math.cos(2 * 10_000 ** (-2 / 8))));
  assert.equal(sin[3 * 4], Math.fround(Math.sin(3)));
});
