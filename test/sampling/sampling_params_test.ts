import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { InvalidRequestError } from "../../src/errors.ts";
import { GREEDY, resolveSamplingParams, type SamplingParams } from "../../src/sampling/sampling_params.ts";

/** Asserts that `partial` is refused with the API's name for the parameter in `param` and in the message. */
function assertRefused(partial: Partial<SamplingParams>, param: string, message = param) {
  const shown = Object.entries(partial).map(([key, value]) => `${key}: ${value}`).join();
  assert.throws(() => resolveSamplingParams(partial), (error) => {
    assert.ok(error instanceof InvalidRequestError, shown);
    assert.equal(error.param, param);
    assert.ok(error.message.includes(message), error.message);
    return true;
  }, shown);
}

describe("resolveSamplingParams()", () => {
  test("is greedy by default", () => {
    assert.deepEqual(resolveSamplingParams({}), GREEDY);
    assert.equal(GREEDY.doSample, false);
  });

  test("keeps what is given and takes undefined for not given", () => {
    const given = { doSample: true, temperature: 0.7, topK: 40, topP: 0.9, seed: 3, logitBias: new Map([[5, -100]]) };
    assert.deepEqual(resolveSamplingParams({ ...given, minP: undefined }), { ...GREEDY, ...given });
  });

  test("leaves the shared defaults as they are", () => {
    const params = resolveSamplingParams({});
    params.temperature = 9;
    assert.equal(resolveSamplingParams({}).temperature, 1);
  });

  test("takes the ends of each range that belong to it", () => {
    const ends: Partial<SamplingParams>[] = [
      { temperature: 0 },
      { topK: 0 },
      { topP: 1 },
      { topP: Number.MIN_VALUE },
      { minP: 0 },
      { minP: 1 },
      { repetitionPenalty: 1e-6 },
      { repetitionPenalty: 1e6 },
      { presencePenalty: -2, frequencyPenalty: -2 },
      { seed: 0 },
      { seed: Number.MIN_SAFE_INTEGER },
      { seed: Number.MAX_SAFE_INTEGER },
      { logitBias: new Map([[0, 0]]) },
    ];
    for (const end of ends) assert.deepEqual(resolveSamplingParams(end), { ...GREEDY, ...end });
  });

  test("refuses what is out of range, by the parameter's name in the API", () => {
    assertRefused({ temperature: -0.1 }, "temperature", "temperature -0.1: wanted 0 or more");
    assertRefused({ topK: -1 }, "top_k");
    assertRefused({ topK: 1.5 }, "top_k", "top_k 1.5: wanted an integer");
    assertRefused({ topP: 0 }, "top_p", "above 0 and up to 1");
    assertRefused({ topP: 1.01 }, "top_p");
    assertRefused({ minP: -0.01 }, "min_p");
    assertRefused({ minP: 1.01 }, "min_p");
    assertRefused({ repetitionPenalty: 0 }, "repetition_penalty");
    assertRefused({ repetitionPenalty: 1e-300 }, "repetition_penalty", "1e-300: wanted from 0.000001 to 1000000");
    assertRefused({ repetitionPenalty: 1e300 }, "repetition_penalty");
    assertRefused({ seed: 0.5 }, "seed");
    assertRefused({ seed: 2 ** 53 }, "seed");
  });

  test("refuses numbers that are not finite and values that are not numbers", () => {
    const names = {
      temperature: "temperature",
      topK: "top_k",
      topP: "top_p",
      minP: "min_p",
      repetitionPenalty: "repetition_penalty",
      presencePenalty: "presence_penalty",
      frequencyPenalty: "frequency_penalty",
      seed: "seed",
    };
    for (const [key, name] of Object.entries(names)) {
      for (const value of [NaN, Infinity, -Infinity, "1", null]) assertRefused({ [key]: value }, name);
    }
  });

  test("refuses biases of what is no token id and biases that are no number", () => {
    const biases: [number, number][] = [[-1, 0], [1.5, 0], [NaN, 0], [1, NaN], [1, Infinity], [1, -Infinity]];
    for (const [id, bias] of biases) {
      assertRefused({ logitBias: new Map([[id, bias]]) }, "logit_bias", `token ${id} by ${bias}`);
    }
  });

  test("refuses biases of ids beyond the vocabulary", () => {
    const logitBias = new Map([[9, 1]]);
    assert.deepEqual(resolveSamplingParams({ logitBias }, 10).logitBias, logitBias);
    assert.throws(() => resolveSamplingParams({ logitBias }, 9), /token 9: the vocabulary has 0 to 8/);
  });

  test("names the first of several faults", () => {
    assertRefused({ logitBias: new Map([[-1, 0]]), seed: 0.5, topP: 2, minP: 2 }, "top_p");
  });
});
