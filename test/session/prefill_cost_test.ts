import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { PrefillCost } from "../../src/session/prefill_cost.ts";

describe("PrefillCost", () => {
  test("knows nothing before the first measurement, then what that says of a token", () => {
    const cost = new PrefillCost();
    assert.equal(cost.ms(10, 0), undefined);
    cost.record(100, 0, 300);
    assert.ok(Math.abs(cost.ms(10, 0)! - 30) < 0.01);
    assert.ok(Math.abs(cost.ms(1000, 0)! - 3000) < 1);
  });

  test("finds what a call, a token, and a token that is seen cost, short and long alike", () => {
    const between = (min: number, max: number) => fc.double({ min, max, noNaN: true });
    const work = fc.record({ tokens: fc.integer({ min: 1, max: 2000 }), from: fc.integer({ min: 0, max: 4000 }) });
    fc.assert(
      fc.property(between(0, 10), between(0.5, 20), between(0, 0.003), work, (call, token, seen, asked) => {
        const real = ({ tokens, from }: typeof asked) => call + token * tokens + seen * tokens * (from + tokens / 2);
        const cost = new PrefillCost();
        for (const tokens of [3, 20, 100, 700, 1500]) {
          for (const from of [0, 2000]) cost.record(tokens, from, real({ tokens, from }));
        }
        const ratio = cost.ms(asked.tokens, asked.from)! / real(asked);
        assert.ok(ratio > 0.7 && ratio < 1.4, `${ratio}`);
      }),
      { numRuns: 300 },
    );
  });

  test("whatever was measured, it is a time, and more tokens take no less", () => {
    const measured = fc.tuple(fc.integer({ min: 1, max: 8000 }), fc.integer({ min: 0, max: 8000 }), fc.nat(100_000));
    fc.assert(
      fc.property(fc.array(measured, { minLength: 1, maxLength: 30 }), (all) => {
        const cost = new PrefillCost();
        for (const [tokens, from, ms] of all) cost.record(tokens, from, ms);
        const [few, many] = [cost.ms(10, 5)!, cost.ms(20, 50)!];
        assert.ok(Number.isFinite(few) && few >= 0 && many >= few, `${few} and ${many} ms`);
      }),
      { numRuns: 300 },
    );
  });

  test("what was measured lately says more than what was measured before", () => {
    for (const [before, now] of [[2000, 200], [200, 2000]] as const) {
      const cost = new PrefillCost();
      for (let n = 0; n < 10; n++) cost.record(200, 0, before);
      for (let n = 0; n < 30; n++) cost.record(200, 0, now);
      const ratio = cost.ms(200, 0)! / now;
      assert.ok(ratio > 0.5 && ratio < 2, `${ratio}`);
    }
  });

  test("one slow prefill among others says little", () => {
    const cost = new PrefillCost();
    for (let n = 0; n < 10; n++) cost.record(200, 0, 200);
    cost.record(200, 0, 2000);
    assert.ok(cost.ms(200, 0)! < 300, `${cost.ms(200, 0)} ms`);
  });
});
