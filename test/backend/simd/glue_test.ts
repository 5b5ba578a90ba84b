import assert from "node:assert/strict";
import { test } from "node:test";
import type { KernelExports, Weights } from "../../../src/backend/simd/kernels.ts";

/** All but what a number means here, which the generated types do not say. */
type Declared = Omit<KernelExports, "choose_dot" | "other_dot"> & { choose_dot(weights: Weights): number };

test("the generated glue has what src/ declares of it, operand by operand", async () => {
  // src/ imports it by URL, untyped: here the type checker sees both.
  const generated: Declared = await import("../../../wasm/pkg/relaxed-threads/kernels.js");
  assert.equal(generated.matmul.length, 12);
  assert.equal(generated.Engine.length, 12);
});
