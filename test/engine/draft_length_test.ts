import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createDraftLength, RowCost } from "../../src/engine/draft_length.ts";

/** Passes of so many milliseconds for 1 and for 5 rows, measured a while. */
function measured(oneRowMs: number, fiveRowsMs: number): RowCost {
  const cost = new RowCost();
  for (let i = 0; i < 20; i++) {
    cost.record(1, oneRowMs);
    cost.record(5, fiveRowsMs);
  }
  return cost;
}

/** What is chosen of 30 after so many hits and then misses. */
function chosen(cost: RowCost, hits: number, misses = 0): number {
  const length = createDraftLength("auto", cost)!;
  for (let i = 0; i < hits + misses; i++) length.observe(i < hits);
  return length.choose(30);
}

describe("DraftLength", () => {
  test("drafts nothing before anything was right", () => {
    assert.equal(chosen(new RowCost(), 0), 0);
    assert.equal(chosen(new RowCost(), 1), 0);
  });

  test("drafts more the more was right, and ends when it is not", () => {
    const lengths = [3, 6, 12, 40].map((hits) => chosen(measured(10, 20), hits));
    assert.deepEqual(lengths, [...lengths].sort((a, b) => a - b));
    assert.ok(lengths[0]! > 0 && lengths[3]! > lengths[0]!, lengths.join());
    assert.equal(chosen(measured(10, 20), 40, 8), 0);
  });

  test("drafts less where rows cost more, nothing where they cost a pass", () => {
    assert.ok(chosen(measured(10, 14), 10) > chosen(measured(10, 30), 10));
    assert.equal(chosen(measured(10, 50), 40), 0);
  });

  test("forgets a slow moment", () => {
    const cost = measured(10, 90);
    assert.equal(chosen(cost, 40), 0);
    for (let i = 0; i < 300; i++) cost.record(1, 10);
    assert.ok(chosen(cost, 40) > 0);
  });

  test("drafts no more than there is room for, in every mode", () => {
    for (const mode of ["auto", "always"] as const) {
      const length = createDraftLength(mode, measured(10, 12))!;
      for (let i = 0; i < 40; i++) length.observe(true);
      assert.deepEqual([0, 1, 4].map((room) => length.choose(room)), [0, 1, 4], mode);
    }
    assert.equal(createDraftLength("off", new RowCost()), undefined);
  });
});
