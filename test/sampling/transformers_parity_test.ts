/**
 * Our logits processing against transformers.js's, with the same logits, prompt and answer so far. What it does to
 * logits it does in `LogitsProcessor` classes; top-k and softmax are in its sampler, which it does not export, so they
 * are done here, with its softmax. Its `TopPLogitsWarper` is never applied, and min-p it does not have: there the
 * naive twin cuts what its processors left.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  LogitsProcessorList,
  RepetitionPenaltyLogitsProcessor,
  softmax,
  TemperatureLogitsWarper,
  Tensor,
} from "@huggingface/transformers";
import fc from "fast-check";
import { applyPenalties } from "../../src/sampling/logits_processors.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { GREEDY, type SamplingParams } from "../../src/sampling/sampling_params.ts";
import { naiveDistribution } from "./naive_distribution.ts";

const VOCAB_SIZE = 24;
const STEPS = 12;

/** Logits after transformers.js's processors, in the order in which its `generate()` applies them. */
function processed(logits: Float32Array, ids: number[], params: SamplingParams): Float32Array {
  const processors = new LogitsProcessorList();
  if (params.repetitionPenalty !== 1) processors.push(new RepetitionPenaltyLogitsProcessor(params.repetitionPenalty));
  if (params.doSample) processors.push(new TemperatureLogitsWarper(params.temperature));
  return processors([ids.map(BigInt)], new Tensor("float32", logits.slice(), [1, logits.length])).data;
}

/** Probability by token id, as transformers.js's multinomial sampler has it: softmax over the `k` best. */
function topKSoftmax(logits: Float32Array, k: number): Map<number, number> {
  const ids = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const best = k === 0 ? ids : ids.slice(0, k);
  const probabilities = softmax(Float32Array.from(best, (id) => logits[id]!));
  return new Map(best.map((id, at) => [id, probabilities[at]!]));
}

const ids = fc.array(fc.nat(VOCAB_SIZE - 1), { maxLength: 10 });
const penalty = fc.oneof(fc.constant(1), fc.double({ min: 0.5, max: 2, noNaN: true }));
/** Steps of 1/16: what is closer to another than f32 can tell after a temperature is a tie on one side only. */
const logit = fc.integer({ min: -240, max: 240 }).map((n) => n / 16);
const row = fc.array(logit, { minLength: VOCAB_SIZE, maxLength: VOCAB_SIZE }).map((l) => Float32Array.from(l));
const answer = fc.array(row, { minLength: STEPS, maxLength: STEPS });
const temperature = fc.double({ min: 0.2, max: 2, noNaN: true });
const topK = fc.nat(VOCAB_SIZE + 2);
/** Fixed, because both sides round differently, which near a cut decides: a rare, but not a telling, difference. */
const fixed = { seed: 20, numRuns: 200 };

/** Draws an answer and asserts that each token has the probability that `expected` gives for what was drawn so far. */
function assertSameDraws(
  rows: Float32Array[],
  prompt: number[],
  params: SamplingParams,
  expected: (logits: Float32Array) => Map<number, number>,
) {
  const sampler = new Sampler(params, prompt);
  const seen = [...prompt];
  for (const logits of rows) {
    const theirs = expected(processed(logits, seen, params));
    const { id, logprob } = sampler.sample(logits.slice());
    const probability = theirs.get(id);
    assert.ok(probability !== undefined, `token ${id} is not among theirs: ${[...theirs.keys()]}`);
    assert.ok(Math.abs(Math.exp(logprob) - probability) < 1e-5, `${Math.exp(logprob)} is ${probability} there`);
    seen.push(id);
  }
}

describe("transformers.js parity", () => {
  test("the repetition penalty gives the same bits", () => {
    fc.assert(fc.property(row, ids, ids, penalty, (logits, prompt, answer, repetitionPenalty) => {
      const params = { ...GREEDY, repetitionPenalty };
      const ours = logits.slice();
      applyPenalties(ours, params, new Set(prompt), new Map(answer.map((id) => [id, 1])));
      assert.deepEqual(ours, processed(logits, [...prompt, ...answer], params));
    }));
  });

  test("a greedy answer with repetition penalty has the same tokens", () => {
    fc.assert(fc.property(answer, ids, penalty, (rows, prompt, repetitionPenalty) => {
      const params = { ...GREEDY, repetitionPenalty };
      const sampler = new Sampler(params, prompt);
      const seen = [...prompt];
      for (const logits of rows) {
        const theirs = processed(logits, seen, params);
        const { id } = sampler.sample(logits.slice());
        assert.equal(id, theirs.indexOf(Math.max(...theirs)));
        seen.push(id);
      }
    }));
  });

  test("repetition penalty, temperature and top-k give the same probabilities", () => {
    const sampling = fc.record({ repetitionPenalty: penalty, temperature, topK, seed: fc.nat() });
    fc.assert(
      fc.property(answer, ids, sampling, (rows, prompt, given) => {
        const params = { ...GREEDY, ...given, doSample: true };
        assertSameDraws(rows, prompt, params, (logits) => topKSoftmax(logits, params.topK));
      }),
      fixed,
    );
  });

  test("top-p and min-p cut what its processors leave as the naive twin does", () => {
    const share = fc.double({ min: 0.05, max: 0.95, noNaN: true });
    const sampling = fc.record({
      repetitionPenalty: penalty,
      temperature,
      topK,
      topP: fc.oneof(fc.constant(1), share),
      minP: fc.oneof(fc.constant(0), share),
      seed: fc.nat(),
    });
    fc.assert(
      fc.property(answer, ids, sampling, (rows, prompt, given) => {
        const params = { ...GREEDY, ...given, doSample: true };
        // Temperature is in their logits already.
        assertSameDraws(rows, prompt, params, (logits) => naiveDistribution(logits, { ...params, temperature: 1 }));
      }),
      fixed,
    );
  });
});
