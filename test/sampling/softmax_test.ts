import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { argmax, largest, logSumExp, softmax, topK } from "../../src/sampling/softmax.ts";

/** Few different values, so that there are ties; some that are not finite. */
const tied = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: -4, max: 4 }) },
  { weight: 1, arbitrary: fc.constantFrom(-0, 0.5, -Infinity, NaN) },
);
const ties = fc.array(tied, { maxLength: 80 }).map((values) => Float32Array.from(values));
const logits = fc.float32Array({ minLength: 1, maxLength: 60, min: -200, max: 200, noNaN: true });

/** All ids, best first: a stable sort, with `NaN` as `-Infinity`. */
function sortedIds(values: Float32Array): number[] {
  const rank = (id: number) => Number.isNaN(values[id]) ? -Infinity : values[id]!;
  const ids = Array.from(values.keys());
  return ids.sort((a, b) => rank(a) === rank(b) ? a - b : rank(b) > rank(a) ? 1 : -1);
}

function assertClose(actual: number, wanted: number, tolerance: number) {
  assert.ok(Math.abs(actual - wanted) <= tolerance, `${actual} is not within ${tolerance} of ${wanted}`);
}

describe("largest()", () => {
  test("is the front of a stable sort, with ties, NaN and -Infinity, also where k is above the length", () => {
    fc.assert(
      fc.property(ties, fc.nat(100), (values, k) => {
        assert.deepEqual(Array.from(largest(values, k)), sortedIds(values).slice(0, k));
      }),
      { numRuns: 2000 },
    );
  });

  test("never prefers NaN to a number, wherever it stands", () => {
    assert.deepEqual(Array.from(largest(Float32Array.of(NaN, 1, 2), 1)), [2]);
    assert.deepEqual(Array.from(largest(Float32Array.of(3, NaN, 1, 2), 3)), [0, 3, 2]);
  });

  test("gives nothing for k of 0 or less", () => {
    assert.equal(largest(Float32Array.of(1, 2), 0).length, 0);
    assert.equal(largest(Float32Array.of(1, 2), -1).length, 0);
  });
});

describe("argmax()", () => {
  test("is the first of the sort", () => {
    fc.assert(
      fc.property(ties.filter((values) => values.length > 0), (values) => {
        assert.equal(argmax(values), sortedIds(values)[0]);
      }),
      { numRuns: 1000 },
    );
  });
});

describe("logSumExp()", () => {
  test("equals the plain sum in f64 where that does not overflow", () => {
    fc.assert(fc.property(logits, (values) => {
      const plain = Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
      assertClose(logSumExp(values), plain, 1e-12 * Math.max(1, Math.abs(plain)));
    }));
  });

  test("does not overflow or underflow", () => {
    assertClose(logSumExp(Float32Array.of(3e38, 3e38)), Math.fround(3e38), 1e23);
    assertClose(logSumExp(Float32Array.of(1000, 1000)), 1000 + Math.log(2), 1e-12);
    assertClose(logSumExp(Float32Array.of(-1000, -1000)), -1000 + Math.log(2), 1e-12);
  });

  test("gives values without a chance no part of the sum", () => {
    assertClose(logSumExp(Float32Array.of(-Infinity, 2, NaN, 2)), 2 + Math.log(2), 1e-12);
  });

  test("is infinite, not NaN, where nothing or something infinite is added up", () => {
    for (const nothing of [[], [-Infinity, -Infinity], [NaN, NaN]]) {
      assert.equal(logSumExp(Float32Array.from(nothing)), -Infinity);
    }
    assert.equal(logSumExp(Float32Array.of(1, Infinity)), Infinity);
  });
});

describe("softmax()", () => {
  test("adds up to 1 and keeps the ratios", () => {
    fc.assert(fc.property(logits, (values) => {
      const probabilities = softmax(values);
      assertClose(probabilities.reduce((sum, p) => sum + p, 0), 1, 1e-5);
      const best = argmax(values);
      for (const [id, p] of probabilities.entries()) {
        assertClose(p, probabilities[best]! * Math.exp(values[id]! - values[best]!), 1e-6);
      }
    }));
  });

  test("leaves its input as it was", () => {
    const values = Float32Array.of(1, 2);
    softmax(values);
    assert.deepEqual(values, Float32Array.of(1, 2));
  });
});

describe("topK()", () => {
  test("gives probabilities of the whole vocabulary's softmax", () => {
    const top = topK(Float32Array.of(Math.log(1), Math.log(5), Math.log(4)), 2);
    assert.deepEqual(top.ids, Int32Array.of(1, 2));
    assert.deepEqual(top.logits, Float32Array.of(Math.log(5), Math.log(4)));
    assertClose(top.probabilities[0]!, 0.5, 1e-6);
    assertClose(top.probabilities[1]!, 0.4, 1e-6);
  });

  test("gives the whole vocabulary where k is above its size", () => {
    const top = topK(Float32Array.of(1, 3, 2), 10);
    assert.deepEqual(top.ids, Int32Array.of(1, 2, 0));
    assertClose(top.probabilities.reduce((sum, p) => sum + p, 0), 1, 1e-12);
  });
});
