import assert from "node:assert/strict";
import { test } from "node:test";
import { best, mean, percentile, standardDeviation } from "../../bench/statistics.ts";

test("mean() and standardDeviation() are those of a sample", () => {
  assert.equal(mean([2, 4, 9]), 5);
  assert.equal(standardDeviation([2, 4, 4, 4, 5, 5, 7, 9]), Math.sqrt(32 / 7));
  assert.equal(standardDeviation([3]), 0);
  assert.throws(() => mean([]), RangeError);
});

test("best() runs as often as asked and keeps the smallest", async () => {
  const times = [5, 3, 4];
  assert.equal(await best(3, async () => times.shift()!), 3);
  assert.deepEqual(times, []);
});

test("percentile() is a value that was measured", () => {
  const values = Array.from({ length: 200 }, (_, i) => 200 - i);
  assert.deepEqual([50, 99, 100].map((percent) => percentile(values, percent)), [100, 198, 200]);
  assert.equal(percentile([7], 1), 7);
  assert.throws(() => percentile([], 50), RangeError);
});
