import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelFileError } from "../../src/errors.ts";
import { kvBytesPerToken, parseModelConfig } from "../../src/model/model_config.ts";

/** Microsoft's Phi-3-mini-4k-instruct, as published. */
const phi3 = {
  architectures: ["Phi3ForCausalLM"],
  num_hidden_layers: 32,
  hidden_size: 3072,
  intermediate_size: 8192,
  num_attention_heads: 32,
  num_key_value_heads: 32,
  vocab_size: 32064,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  sliding_window: 2047,
  tie_word_embeddings: false,
};

test("parseModelConfig() derives head_dim and keeps the sliding window", () => {
  const config = parseModelConfig(phi3);
  assert.equal(config.headDim, 96);
  assert.equal(config.slidingWindow, 2047);
});

test("parseModelConfig() falls back to as many KV heads as heads", () => {
  const { num_key_value_heads: _, ...rest } = phi3;
  assert.equal(parseModelConfig(rest).numKeyValueHeads, 32);
});

test("parseModelConfig() names the field that is wrong", () => {
  assert.throws(() => parseModelConfig({ ...phi3, hidden_size: "3072" }), (error) => {
    assert.ok(error instanceof ModelFileError);
    assert.match(error.message, /hidden_size/);
    return true;
  });
  assert.throws(() => parseModelConfig({ ...phi3, num_attention_heads: 7 }), /does not divide/);
  for (const num_key_value_heads of [5, 64]) {
    assert.throws(
      () => parseModelConfig({ ...phi3, num_key_value_heads }),
      { name: "ModelFileError", message: /num_attention_heads 32 does not divide by num_key_value_heads/ },
    );
  }
  const odd = { name: "ModelFileError", message: /head_dim is 95, wanted a multiple of 4/ };
  assert.throws(() => parseModelConfig({ ...phi3, head_dim: 95 }), odd);
});

test("kvBytesPerToken() gives 768 KiB for Phi-3-mini in f32", () => {
  assert.equal(kvBytesPerToken(parseModelConfig(phi3)), 768 * 1024);
});

test("parseModelConfig() ends the context where LongRoPE would take other factors", () => {
  const long = { ...phi3, max_position_embeddings: 131_072, original_max_position_embeddings: 4096 };
  const rope_scaling = { type: "longrope", short_factor: [1], long_factor: [2] };
  assert.equal(parseModelConfig({ ...long, rope_scaling }).contextLength, 4096);
  assert.equal(parseModelConfig({ ...long, rope_scaling: null }).contextLength, 131_072);
});
