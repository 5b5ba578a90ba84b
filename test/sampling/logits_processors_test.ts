import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { applyPenalties } from "../../src/sampling/logits_processors.ts";
import { resolveSamplingParams, type SamplingParams } from "../../src/sampling/sampling_params.ts";

/** Logits after the penalties, of a prompt and an answer as they were written. */
function penalised(
  logits: number[],
  params: Partial<SamplingParams>,
  prompt: number[] = [],
  answer: number[] = [],
): number[] {
  const counts = new Map<number, number>();
  for (const id of answer) counts.set(id, (counts.get(id) ?? 0) + 1);
  const values = Float32Array.from(logits);
  applyPenalties(values, resolveSamplingParams(params), new Set(prompt), counts);
  return Array.from(values);
}

describe("applyPenalties()", () => {
  test("changes nothing by default", () => {
    assert.deepEqual(penalised([1, -2, 3], {}, [0, 1], [1, 2]), [1, -2, 3]);
  });

  test("the repetition penalty moves seen tokens down on either side of zero", () => {
    assert.deepEqual(penalised([4, -4, 0, 4, -4], { repetitionPenalty: 2 }, [0, 1, 2]), [2, -8, 0, 4, -4]);
  });

  test("the repetition penalty counts a token once, be it in prompt, answer or both, however often", () => {
    assert.deepEqual(penalised([8, 8, 8, 8], { repetitionPenalty: 2 }, [0, 0, 1], [1, 1, 2, 2]), [4, 4, 4, 8]);
  });

  test("the presence penalty counts once, the frequency penalty each time, both in the answer alone", () => {
    assert.deepEqual(penalised([5, 5, 5, 5], { presencePenalty: 1 }, [0], [1, 2, 2]), [5, 4, 4, 5]);
    assert.deepEqual(penalised([5, 5, 5, 5], { frequencyPenalty: 0.5 }, [0], [1, 2, 2]), [5, 4.5, 4, 5]);
  });

  test("negative penalties are rewards", () => {
    assert.deepEqual(penalised([0, 0], { presencePenalty: -1, frequencyPenalty: -0.5 }, [], [1, 1]), [0, 2]);
  });

  test("biases are added after the repetition penalty, so that it does not scale them", () => {
    const logitBias = new Map([[0, 10], [1, -100]]);
    assert.deepEqual(penalised([4, 4, 4], { logitBias, repetitionPenalty: 2 }, [0, 1]), [12, -98, 4]);
  });

  test("ids outside the vocabulary touch nothing", () => {
    const params = {
      logitBias: new Map([[2, 50], [99, 50]]),
      repetitionPenalty: 2,
      presencePenalty: 1,
      frequencyPenalty: 1,
    };
    assert.deepEqual(penalised([1, 2], params, [2, 77], [3, 88]), [1, 2]);
  });

  test("a forbidden token stays forbidden", () => {
    const params = {
      repetitionPenalty: 1.5,
      presencePenalty: -2,
      frequencyPenalty: -2,
      logitBias: new Map([[0, 100]]),
    };
    assert.deepEqual(penalised([-Infinity, 0], params, [0], [0]), [-Infinity, 0]);
  });

  test("equals the formulas, token by token", () => {
    const ids = fc.array(fc.nat(7), { maxLength: 12 });
    fc.assert(fc.property(
      fc.array(fc.double({ min: -20, max: 20, noNaN: true }), { minLength: 8, maxLength: 8 }),
      ids,
      ids,
      fc.record({
        repetitionPenalty: fc.double({ min: 0.5, max: 2, noNaN: true }),
        presencePenalty: fc.double({ min: -2, max: 2, noNaN: true }),
        frequencyPenalty: fc.double({ min: -2, max: 2, noNaN: true }),
        logitBias: fc.array(fc.tuple(fc.nat(7), fc.double({ min: -100, max: 100, noNaN: true }))).map((b) =>
          new Map(b)
        ),
      }),
      (logits, prompt, answer, params) => {
        const actual = penalised(logits, params, prompt, answer);
        for (const [id, logit] of logits.entries()) {
          const { repetitionPenalty: r, presencePenalty, frequencyPenalty, logitBias } = params;
          const count = answer.filter((other) => other === id).length;
          const seen = count > 0 || prompt.includes(id);
          const repeated = seen ? logit * (logit < 0 ? r : 1 / r) : logit;
          const wanted = repeated - (count > 0 ? presencePenalty : 0) - count * frequencyPenalty +
            (logitBias.get(id) ?? 0);
          assert.ok(Math.abs(actual[id]! - wanted) < 1e-4, `token ${id}: ${actual[id]} instead of ${wanted}`);
        }
      },
    ));
  });
});
