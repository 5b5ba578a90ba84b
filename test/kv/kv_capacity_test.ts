import assert from "node:assert/strict";
import { test } from "node:test";
import { kvCapacity } from "../../src/kv/kv_capacity.ts";

test("kvCapacity() grows by a half at most and ends at the context", () => {
  assert.deepEqual([0, 1, 64, 65, 97, 129, 1500, 8000].map((n) => kvCapacity(n, 8192)), [
    0,
    64,
    64,
    96,
    128,
    192,
    1536,
    8192,
  ]);
  for (let tokens = 1; tokens <= 4000; tokens++) {
    const capacity = kvCapacity(tokens, 4000);
    assert.ok(capacity >= tokens && capacity <= Math.max(64, tokens * 1.5), `${tokens} -> ${capacity}`);
  }
});

test("kvCapacity() of a small context is the context", () => {
  assert.equal(kvCapacity(3, 16), 16);
});
