import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { Sampler } from "../../src/sampling/sampler.ts";
import { resolveSamplingParams, type SamplingParams } from "../../src/sampling/sampling_params.ts";
import { largest, logSumExp } from "../../src/sampling/softmax.ts";
import { naiveDistribution } from "./naive_distribution.ts";

const resolve = (params: Partial<SamplingParams>) => resolveSamplingParams({ doSample: true, seed: 1, ...params });

/** `count` tokens of one answer, each from the same logits. */
function answer(logits: number[], params: Partial<SamplingParams>, count: number, prompt: number[] = []): number[] {
  const sampler = new Sampler(resolve(params), prompt);
  return Array.from({ length: count }, () => sampler.sample(Float32Array.from(logits)).id);
}

/** Asserts that draws come from the naive twin's tokens, with its logarithms of their probabilities. */
function assertDrawsAsNaive(logits: Float32Array, params: SamplingParams, draws: number) {
  const naive = naiveDistribution(logits, params);
  const sampler = new Sampler(params);
  for (let i = 0; i < draws; i++) {
    const { id, logprob } = sampler.sample(logits.slice());
    const probability = naive.get(id);
    assert.ok(probability !== undefined, `token ${id} is not among the ${naive.size} allowed`);
    assert.ok(Math.abs(logprob - Math.log(probability)) < 1e-9, `${logprob} for a token of ${probability}`);
  }
}

/** `top_p` that no sum of equal shares comes near, so that rounding does not decide what is kept. */
const topP = fc.oneof(fc.constant(1), fc.nat(999).map((n) => (n + Math.SQRT2 - 1) / 1000));
const sampling = fc.record({
  temperature: fc.oneof(fc.constantFrom(1e-300, 1e-5, 1), fc.double({ min: 0.1, max: 3, noNaN: true })),
  topK: fc.nat(12),
  topP,
  minP: fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true })),
  seed: fc.nat(),
});
const logit = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: -5, max: 5 }) },
  { weight: 4, arbitrary: fc.integer({ min: -800, max: 800 }).map((n) => n / 16) },
  { weight: 1, arbitrary: fc.constantFrom(-Infinity, NaN) },
);
const logits = fc.tuple(fc.array(logit, { maxLength: 10 }), fc.integer({ min: -5, max: 5 }), fc.array(logit))
  .map(([before, number, after]) => Float32Array.of(...before, number, ...after));

describe("Sampler that draws", () => {
  test("draws from the tokens that the naive twin allows, with its logprobs", () => {
    fc.assert(fc.property(logits, sampling, (l, params) => assertDrawsAsNaive(l, resolve(params), 20)), {
      numRuns: 1000,
    });
  });

  test("looks past its first candidates where top-p or min-p keep more", () => {
    const flat = Float32Array.from({ length: 5000 }, (_, id) => Math.sin(id * id) / 4);
    for (const cut of [{ topP: 0.01 }, { topP: 0.3 }, { topP: 0.97 }, { minP: 0.9 }, { minP: 0.65 }, { minP: 0.1 }]) {
      assertDrawsAsNaive(flat, resolve(cut), 40);
    }
  });

  test("draws each token as often as its probability says", () => {
    const l = Float32Array.of(-9, 2, 1, 0.5, 2, NaN, -1, 1.5, -Infinity, 0);
    const params = resolve({ temperature: 1.5, topK: 7, topP: 0.95, minP: 0.27, seed: 7 });
    const draws = 20_000;
    const counts = new Map<number, number>();
    for (const id of answer(Array.from(l), params, draws)) counts.set(id, (counts.get(id) ?? 0) + 1);
    const naive = naiveDistribution(l, params);
    // Top-k, top-p and min-p each cut off one more.
    assert.deepEqual([...naive.keys()], [1, 4, 7, 2, 3]);
    const chiSquare = naive.entries().reduce((sum, [id, probability]) => {
      const expected = draws * probability;
      return sum + ((counts.get(id) ?? 0) - expected) ** 2 / expected;
    }, 0);
    // 4 degrees of freedom: 99.9 % of fair samplers stay below 18.5. The seed is fixed, so the answer is, too.
    assert.ok(chiSquare < 18.5, `chi-square ${chiSquare}`);
  });

  test("repeats its tokens for the same seed, not for another one", () => {
    const flat = new Array<number>(50).fill(0);
    fc.assert(fc.property(fc.nat(), (seed) => {
      const ids = answer(flat, { seed }, 30);
      assert.deepEqual(answer(flat, { seed }, 30), ids);
      assert.notDeepEqual(answer(flat, { seed: seed + 1 }, 30), ids);
    }));
  });

  test("takes the likeliest, at no loss, at temperatures too low for f32", () => {
    for (const temperature of [1e-45, 1e-300, Number.MIN_VALUE]) {
      const token = new Sampler(resolve({ temperature })).sample(Float32Array.of(-3e38, 80, 81, 3e-38));
      assert.deepEqual(token, { id: 2, logprob: 0 });
    }
  });

  test("draws evenly at temperatures that level everything", () => {
    assert.equal(new Set(answer([0, 50, -50, 30], { temperature: 1e300 }, 60)).size, 4);
  });

  test("never draws a forbidden token", () => {
    const ids = answer([-Infinity, 0, NaN, 0, 0], { logitBias: new Map([[3, -1000]]) }, 200);
    assert.deepEqual(new Set(ids), new Set([1, 4]));
  });
});

describe("Sampler that does not draw", () => {
  test("takes the likeliest, without sampling and at temperature 0, with its share of all tokens", () => {
    for (const params of [{ doSample: false }, { temperature: 0 }]) {
      const token = new Sampler(resolve(params)).sample(Float32Array.of(0, NaN, Math.log(3), -Infinity));
      assert.equal(token.id, 2);
      assert.ok(Math.abs(token.logprob - Math.log(0.75)) < 1e-6, `${token.logprob}`);
    }
  });
});

describe("Sampler's penalties", () => {
  test("count the answer so far", () => {
    assert.deepEqual(answer([3, 2, 1], { doSample: false, presencePenalty: 5 }, 5), [0, 1, 2, 0, 0]);
    assert.deepEqual(answer([3, 2.5, 0], { doSample: false, frequencyPenalty: 1 }, 5), [0, 1, 0, 1, 0]);
    assert.deepEqual(answer([3, 2, 1.4], { doSample: false, repetitionPenalty: 2 }, 4), [0, 1, 0, 0]);
  });

  test("apply to drawing, too", () => {
    const distinct = new Set(answer(new Array(40).fill(0), { presencePenalty: 1000 }, 40));
    assert.equal(distinct.size, 40);
  });

  test("for repetition count the prompt, for presence and frequency do not", () => {
    assert.deepEqual(answer([3, 2, 1], { doSample: false, repetitionPenalty: 2 }, 1, [0]), [1]);
    assert.deepEqual(answer([3, 2, 1], { doSample: false, presencePenalty: 2, frequencyPenalty: 2 }, 1, [0]), [0]);
  });
});

test("sample() throws where the forward pass gave no usable logits, drawing or not", () => {
  for (const doSample of [true, false]) {
    for (const bad of [[], [NaN, NaN], [-Infinity, -Infinity], [1, Infinity]]) {
      const sampler = new Sampler(resolve({ doSample }));
      assert.throws(() => sampler.sample(Float32Array.from(bad)), RangeError, `${doSample} ${bad}`);
    }
  }
});

test("sample() chooses of the largest logits what it chooses of all, with the same logarithm", () => {
  const value = fc.oneof(fc.integer({ min: -4, max: 4 }), fc.constantFrom(NaN, -Infinity, 2 ** -20, -0));
  const cut = fc.record({
    doSample: fc.boolean(),
    temperature: fc.constantFrom(0, 0.3, 1, 1e5),
    topK: fc.integer({ min: 1, max: 12 }),
    topP: fc.constantFrom(1, 0.77),
    minP: fc.constantFrom(0, 0.11),
  });
  fc.assert(
    fc.property(fc.array(value, { minLength: 1, maxLength: 40 }), cut, (values, params) => {
      const logits = Float32Array.from([0, ...values]);
      const [ranked, whole] = [new Sampler(resolve(params)), new Sampler(resolve(params))];
      const ids = largest(logits, ranked.wanted!);
      for (let i = 0; i < 8; i++) {
        const best = { ids, logits: Float32Array.from(ids, (id) => logits[id]!), logSumExp: logSumExp(logits) };
        assert.deepEqual(ranked.sample(best), whole.sample(logits.slice()));
      }
    }),
  );
});

test("wanted is absent where all logits are needed", () => {
  const wanted = (params: Partial<SamplingParams>) => new Sampler(resolveSamplingParams(params)).wanted;
  assert.equal(wanted({}), 1);
  assert.equal(wanted({ doSample: true, topK: 40 }), 40);
  assert.equal(wanted({ doSample: true, temperature: 0 }), 1);
  for (
    const params of [
      { doSample: true },
      { doSample: true, topK: 1000 },
      { repetitionPenalty: 1.1 },
      { presencePenalty: 0.1 },
      { frequencyPenalty: 0.1 },
      { logitBias: new Map([[1, 2]]) },
    ]
  ) assert.equal(wanted(params), undefined);
});

test("upcoming() tells of draws that are by a token's own logits, and among no more than are ranked", () => {
  const upcoming = (params: Partial<SamplingParams>) => new Sampler(resolve(params)).upcoming(3);
  assert.equal(upcoming({ topP: 0.9 })!.randoms.length, 3);
  assert.equal(upcoming({ topK: 256 })!.topK, 256);
  for (const params of [{ topK: 257 }, { temperature: 0 }, { doSample: false }, { repetitionPenalty: 1.1 }]) {
    assert.equal(upcoming(params), undefined);
  }
});
