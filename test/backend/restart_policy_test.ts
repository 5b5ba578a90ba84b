import assert from "node:assert/strict";
import { test } from "node:test";
import { RestartPolicy } from "../../src/backend/restart_policy.ts";

test("RestartPolicy starts at once, then after longer and longer, then after a rest and on demand, then anew", () => {
  const policy = new RestartPolicy({ most: 3, pauseMs: 10, restMs: 1000 });
  const next = (count: number) => Array.from({ length: count }, () => policy.next());
  const row = [0, 10, 40].map((afterMs) => ({ afterMs, onDemand: false }));
  const rest = { afterMs: 1000, onDemand: true };
  assert.deepEqual(next(3), row);
  assert.deepEqual(next(3), [rest, ...row.slice(1)]);
  assert.deepEqual(next(2), [rest, row[1]]);
  policy.succeeded();
  assert.deepEqual(next(4), [...row, rest]);
});
