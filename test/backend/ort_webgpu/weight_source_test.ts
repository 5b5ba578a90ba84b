import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { bytesAs, joinOf, lazyBytes, sliceOf, WeightBlob } from "../../../src/backend/ort_webgpu/weight_source.ts";
import { DataType } from "../../../src/model/onnx_proto.ts";
import type { TensorBytes } from "../../../src/model/tensor_bytes.ts";

const of = (bytes: Uint8Array): TensorBytes => ({
  length: bytes.length,
  read: (at, into) => {
    assert.ok(at >= 0 && at + into.length <= bytes.length, `${at}, ${into.length} of ${bytes.length}`);
    into.set(bytes.subarray(at, at + into.length));
  },
});
const read = (source: TensorBytes, at = 0, length = source.length - at) => {
  const into = new Uint8Array(length);
  source.read(at, into);
  return into;
};
const bytesOf = (array: Float32Array<ArrayBuffer> | Float16Array<ArrayBuffer>) => new Uint8Array(array.buffer);

test("any part of bytes that were cut and joined is what it was before", () => {
  const parts = fc.array(fc.uint8Array({ maxLength: 20 }), { maxLength: 5 });
  fc.assert(fc.property(parts, fc.nat(), fc.nat(), (parts, a, b) => {
    const whole = Uint8Array.from(parts.flatMap((part) => [...part]));
    const joined = joinOf(parts.map((part) => sliceOf(of(Uint8Array.from([9, ...part, 9])), 1, part.length)));
    assert.equal(joined.length, whole.length);
    const [from, to] = [a % (whole.length + 1), b % (whole.length + 1)].sort((x, y) => x - y) as [number, number];
    assert.deepEqual(read(joined, from, to - from), whole.slice(from, to));
  }));
});

describe("bytesAs()", () => {
  const floats = Float32Array.of(1, -0.1, 65504, 1e-7, 3);
  const halves = new Float16Array(floats);

  test("rounds to f16, widens to f32, and leaves what is right", () => {
    const wide = { dataType: DataType.FLOAT, bytes: of(bytesOf(floats)) };
    const narrow = { dataType: DataType.FLOAT16, bytes: of(bytesOf(halves)) };
    assert.deepEqual(read(bytesAs(DataType.FLOAT16, wide, "a")), bytesOf(halves));
    assert.deepEqual(read(bytesAs(DataType.FLOAT16, wide, "a"), 4, 4), bytesOf(halves).slice(4, 8));
    assert.deepEqual(read(bytesAs(DataType.FLOAT, narrow, "a")), bytesOf(Float32Array.from(halves)));
    assert.equal(bytesAs(DataType.FLOAT, wide, "a"), wide.bytes);
    assert.equal(bytesAs(DataType.FLOAT16, narrow, "a"), narrow.bytes);
  });

  test("refuses by name what f16 cannot hold", () => {
    for (const value of [65520, -Infinity, NaN]) {
      const wide = { dataType: DataType.FLOAT, bytes: of(bytesOf(Float32Array.of(1, value))) };
      assert.throws(() => read(bytesAs(DataType.FLOAT16, wide, "a.scales")), {
        name: "ModelFileError",
        message: /tensor a\.scales as f16/,
      });
    }
  });
});

test("a WeightBlob streams its bytes, which are made once and forgotten", async () => {
  let made = 0;
  const bytes = Uint8Array.from({ length: 9 * 2 ** 20 + 5 }, (_, i) => i * 31 + (i >> 10));
  const blob = new WeightBlob(lazyBytes(bytes.length, () => {
    made++;
    return bytes;
  }));
  assert.equal(blob.size, bytes.length);
  const lengths: number[] = [];
  let at = 0;
  for await (const part of blob.stream()) {
    assert.ok(part.every((byte, i) => byte === bytes[at + i]));
    at += part.length;
    lengths.push(part.length);
  }
  assert.equal(at, bytes.length);
  assert.ok(Math.max(...lengths) <= 4 * 2 ** 20, `${lengths}`);
  assert.equal(made, 1);
  const middle = blob.slice(5, 25).stream().getReader();
  assert.deepEqual((await middle.read()).value, bytes.slice(5, 25));
});
