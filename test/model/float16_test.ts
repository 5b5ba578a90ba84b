import assert from "node:assert/strict";
import { test } from "node:test";
import { float16Array, float16ToNumber, numberToFloat16 } from "../../src/model/float16.ts";

test("every binary16 comes back from its value", () => {
  const all = Uint16Array.from({ length: 1 << 16 }, (_, bits) => bits);
  // Numbers that are none have many forms; one of them is written.
  const numbers = all.filter((bits) => !Number.isNaN(float16ToNumber(bits)));
  assert.deepEqual(float16Array(Float32Array.from(numbers, float16ToNumber)), numbers);
});

test("what lies between two goes to the nearer one, and from the middle to the even one", () => {
  const values: number[] = [];
  for (let bits = 0; bits < 0x7c00; bits++) {
    const [low, high] = [float16ToNumber(bits), bits === 0x7bff ? 65536 : float16ToNumber(bits + 1)];
    for (const share of [0.25, 0.5, 0.75]) values.push(low + share * (high - low));
  }
  const floats = Float32Array.from([...values, ...values.map((value) => -value), 65519.99, 65520, 1e30, Infinity, NaN]);
  assert.deepEqual(float16Array(floats), new Uint16Array(new Float16Array(floats).buffer));
  assert.deepEqual(float16Array(floats), Uint16Array.from(floats, numberToFloat16));
});

test("a view's own numbers are taken", () => {
  const floats = Float32Array.from([1, 2, 3, 4]);
  assert.deepEqual([...float16Array(floats.subarray(1, 3))], [0x4000, 0x4200]);
});
