import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import * as ort from "onnxruntime-node";
import { buildModelFiles } from "../../models/model_files.ts";
import { ModelFileError } from "../../src/errors.ts";
import { parseModelConfig } from "../../src/model/model_config.ts";
import { llamaLogits } from "./llama_reference.ts";
import { TINY, tinyGguf } from "./tiny_gguf.ts";

/** Small enough that the tiny model needs several files of external data. */
const MAX_FILE_BYTES = 20_000;
const source = tinyGguf();
const files = buildModelFiles(source, MAX_FILE_BYTES);
const folder = mkdtempSync(join(tmpdir(), "hearth-model-"));
for (const [path, bytes] of files) {
  mkdirSync(dirname(join(folder, path)), { recursive: true });
  writeFileSync(join(folder, path), bytes);
}
after(() => rmSync(folder, { recursive: true }));

function readJson(path: string): unknown {
  return JSON.parse(new TextDecoder().decode(files.get(path)));
}

/** Runs `tokenIds` in pieces of the given sizes, each reading the cache of those before. @returns all logits */
async function runInPieces(session: ort.InferenceSession, tokenIds: number[], sizes: number[]): Promise<number[]> {
  const names = Array.from({ length: TINY.layers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const empty = [1, TINY.kvHeads, 0, TINY.headDim];
  let past: Record<string, ort.Tensor> = Object.fromEntries(
    names.map((name) => [`past_key_values.${name}`, new ort.Tensor("float32", new Float32Array(0), empty)]),
  );
  const logits: number[] = [];
  let done = 0;
  for (const size of sizes) {
    const ids = BigInt64Array.from(tokenIds.slice(done, done + size), BigInt);
    done += size;
    const mask = new BigInt64Array(done).fill(1n);
    const results = await session.run({
      input_ids: new ort.Tensor("int64", ids, [1, size]),
      attention_mask: new ort.Tensor("int64", mask, [1, done]),
      ...past,
    });
    const data = results.logits?.data;
    assert.ok(data instanceof Float32Array);
    logits.push(...data);
    past = Object.fromEntries(names.map((name) => [`past_key_values.${name}`, results[`present.${name}`]!]));
  }
  return logits;
}

test("buildModelFiles() writes a graph with the logits of the GGUF's weights, at once and in pieces", async () => {
  const session = await ort.InferenceSession.create(join(folder, "onnx/model_q4.onnx"));
  const tokenIds = [3, 17, 39, 0, 17, 8, 25];
  const want = llamaLogits(source, tokenIds).flat();
  const magnitude = Math.max(...want.map(Math.abs));
  for (const sizes of [[7], [3, 1, 1, 2]]) {
    const got = await runInPieces(session, tokenIds, sizes);
    assert.equal(got.length, want.length);
    // The longest reduction is 96 terms, through two layers of several products each.
    const tolerance = 96 * 2 ** -23 * magnitude;
    want.forEach((logit, i) => {
      assert.ok(Math.abs(got[i]! - logit) <= tolerance, `pieces ${sizes}, logit ${i}: ${got[i]}, wanted ${logit}`);
    });
  }
  await session.release();
});

test("buildModelFiles() splits external data as config.json tells transformers.js", () => {
  const names = [...files.keys()].filter((path) => path.includes("onnx_data"));
  assert.ok(names.length > 1);
  names.forEach((name, i) => {
    assert.equal(name, `onnx/model_q4.onnx_data${i === 0 ? "" : `_${i}`}`);
    assert.ok(files.get(name)!.length <= MAX_FILE_BYTES);
  });
  const config = readJson("config.json");
  assert.ok(typeof config === "object" && config !== null && "transformers.js_config" in config);
  assert.deepEqual(config["transformers.js_config"], { use_external_data_format: { "model_q4.onnx": names.length } });
});

test("buildModelFiles() writes a config.json that Hearth reads", () => {
  assert.deepEqual(parseModelConfig(readJson("config.json")), {
    architecture: "LlamaForCausalLM",
    numHiddenLayers: TINY.layers,
    hiddenSize: TINY.hidden,
    intermediateSize: TINY.intermediate,
    numAttentionHeads: TINY.heads,
    numKeyValueHeads: TINY.kvHeads,
    headDim: TINY.headDim,
    vocabSize: TINY.vocab,
    contextLength: TINY.context,
    rmsNormEps: TINY.epsilon,
    ropeTheta: TINY.theta,
    slidingWindow: undefined,
    tieWordEmbeddings: true,
  });
});

test("buildModelFiles() gives the same bytes for the same source", () => {
  assert.deepEqual(buildModelFiles(tinyGguf(), MAX_FILE_BYTES), files);
});

test("buildModelFiles() names a tensor that it cannot convert", () => {
  const tensors = new Map(source.tensors);
  tensors.set("blk.1.ffn_up.weight", { ...source.tensors.get("blk.1.ffn_up.weight")!, type: 14 });
  assert.throws(
    () => buildModelFiles({ ...source, tensors }, MAX_FILE_BYTES),
    (error) => error instanceof ModelFileError && /blk\.1\.ffn_up\.weight: ggml type 14, wanted/.test(error.message),
  );
  tensors.delete("blk.1.ffn_up.weight");
  assert.throws(() => buildModelFiles({ ...source, tensors }, MAX_FILE_BYTES), ModelFileError);
});
