import assert from "node:assert/strict";
import { test } from "node:test";
import { reusablePrefix } from "../../src/session/common_prefix.ts";

test("reusablePrefix() stops at the first difference", () => {
  assert.equal(reusablePrefix([1, 2, 3, 4], [1, 2, 9, 4, 5]), 2);
  assert.equal(reusablePrefix([1, 2, 3], [9]), 0);
  assert.equal(reusablePrefix([], [1, 2]), 0);
});

test("reusablePrefix() leaves one token to evaluate", () => {
  assert.equal(reusablePrefix([1, 2, 3], [1, 2, 3]), 2);
  assert.equal(reusablePrefix([1, 2, 3, 4], [1, 2, 3]), 2);
  assert.equal(reusablePrefix([1], [1]), 0);
});
