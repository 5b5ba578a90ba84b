import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { cutPasses } from "../../../src/backend/simd/cut_passes.ts";
import type { SessionRow } from "../../../src/backend/model_session.ts";

const row = (tokens: number, logits: SessionRow["logits"]): SessionRow => ({
  cacheId: undefined,
  start: 0,
  tokenIds: Array.from({ length: tokens }, (_, i) => i),
  logits,
  hiddenStates: false,
  top: undefined,
  inspect: [],
});

test("cutPasses() gives a row's last logits to its last part alone", () => {
  assert.deepEqual(cutPasses([row(3, "last"), row(2, "all")], 2), [
    [{ row: 0, from: 0, count: 2, logits: "none" }],
    [{ row: 0, from: 2, count: 1, logits: "last" }, { row: 1, from: 0, count: 1, logits: "all" }],
    [{ row: 1, from: 1, count: 1, logits: "all" }],
  ]);
});

test("cutPasses() covers every token once, in order, in the fewest passes", () => {
  const rows = fc.array(fc.record({ tokens: fc.integer({ min: 1, max: 40 }), last: fc.boolean() }), { minLength: 1 });
  fc.assert(fc.property(rows, fc.integer({ min: 1, max: 20 }), (sizes, limit) => {
    const batch = sizes.map(({ tokens, last }) => row(tokens, last ? "last" : "none"));
    const passes = cutPasses(batch, limit);
    const tokens = passes.map((parts) => parts.reduce((sum, { count }) => sum + count, 0));
    const total = sizes.reduce((sum, size) => sum + size.tokens, 0);
    assert.equal(passes.length, Math.ceil(total / limit));
    assert.ok(tokens.every((count) => count <= limit));
    const seen = passes.flat().flatMap(({ row, from, count }) =>
      Array.from({ length: count }, (_, i) => [row, from + i])
    );
    assert.deepEqual(seen, batch.flatMap(({ tokenIds }, row) => tokenIds.map((at) => [row, at])));
    const lasts = passes.flat().filter(({ logits }) => logits === "last");
    assert.ok(lasts.every(({ row, from, count }) => from + count === batch[row]!.tokenIds.length));
    assert.equal(lasts.length, sizes.filter(({ last }) => last).length);
  }));
});
