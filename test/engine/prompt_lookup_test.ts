import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { PromptLookup } from "../../src/engine/prompt_lookup.ts";

/** The same by search: what followed the last earlier place of the longest n-gram that the text ends with. */
function search(ids: readonly number[], max: number): number[] {
  for (const n of [3, 2]) {
    for (let end = ids.length - 1; end >= n; end--) {
      if (ids.slice(-n).some((id, i) => id !== ids[end - n + i])) continue;
      const text = [...ids];
      while (text.length < ids.length + max) text.push(text[end + text.length - ids.length]!);
      return text.slice(ids.length);
    }
  }
  return [];
}

test("PromptLookup drafts what followed the last tokens the last time", () => {
  const lookup = new PromptLookup([1, 2, 3, 4, 5, 9, 2, 3]);
  assert.deepEqual(lookup.draft(3), [4, 5, 9]);
  lookup.push(7);
  assert.deepEqual(lookup.draft(3), [], "3, 7 is new");
});

test("PromptLookup drafts a loop for as long as it is asked", () => {
  assert.deepEqual(new PromptLookup([1, 2, 1, 2, 1]).draft(5), [2, 1, 2, 1, 2]);
});

test("PromptLookup keeps n-grams of different length apart", () => {
  // Their hashes were equal once.
  assert.deepEqual(new PromptLookup([3, 1, 1, 3, 1]).draft(1), [1]);
});

test("PromptLookup drafts what a search finds", () => {
  fc.assert(fc.property(fc.array(fc.nat(3), { maxLength: 40 }), fc.nat(12), (ids, max) => {
    assert.deepEqual(new PromptLookup(ids).draft(max), search(ids, max));
  }));
});

test("PromptLookup is not misled by n-grams with the same hash", () => {
  // More 2-grams than there are hashes: some collide.
  let seed = 1;
  const random = () => seed = Math.imul(seed, 1103515245) + 12345 >>> 0;
  const ids = Array.from({ length: 200_000 }, () => random() >>> 15);
  const lookup = new PromptLookup(ids.slice(0, -2_000));
  let drafts = 0;
  for (let at = ids.length - 2_000; at < ids.length; at++) {
    const [guess] = lookup.draft(1);
    if (guess !== undefined) {
      drafts++;
      const [a, b] = ids.slice(at - 2, at);
      assert.ok(ids.slice(0, at - 2).some((id, i) => id === a && ids[i + 1] === b && ids[i + 2] === guess));
    }
    lookup.push(ids[at]!);
  }
  console.log(`${drafts} drafts in 2000 tokens`);
});
