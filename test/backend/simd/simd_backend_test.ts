import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../../src/backend/backend.ts";
import { createOrtWasmBackend } from "../../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import { type ModelFolder, readModelFolder, resolveModelPath } from "../../../src/model/model_folder.ts";
import { decodeModel, encodeModel } from "../../../src/model/onnx_proto.ts";
import { argmax, logSumExp } from "../../../src/sampling/softmax.ts";
import { Tokenizer } from "../../../src/tokenizer/tokenizer.ts";
import { llamaLogits } from "../../models/llama_reference.ts";
import { tinyGguf } from "../../models/tiny_gguf.ts";
import { tinyModel } from "../tiny_model.ts";

describe("simd on a tiny model", () => {
  test("gives the logits of the GGUF's weights, as far as int8 activations allow", async () => {
    await using model = await tinyModel();
    await using backend = await createSimdBackend({ modelDir: model.path, config: model.config });
    const ids = [3, 17, 39, 0, 17, 8, 25, 31, 4, 4, 12];
    const want = llamaLogits(tinyGguf(), ids).flat();
    const [result] = await backend.forward([{ tokenIds: ids, logits: "all" }]);
    const spread = Math.max(...want.map(Math.abs));
    const error = Math.max(...want.map((value, i) => Math.abs(value - result!.logits[i]!)));
    assert.ok(error < 0.05 * spread, `${error} of ${spread}`);
  });

  test("starts and stops with more threads than there are cores, again and again", async () => {
    await using model = await tinyModel();
    const ids = [3, 17, 39, 0, 17, 8, 25, 31, 4, 4, 12];
    const seen = new Set<string>();
    for (const threads of [1, 2, 3, 5, 9, 2, 4, 8]) {
      await using backend = await createSimdBackend({ modelDir: model.path, config: model.config, threads });
      const [result] = await backend.forward([{ tokenIds: ids, logits: "all" }]);
      seen.add(Buffer.from(result!.logits.buffer).toString("base64"));
    }
    assert.equal(seen.size, 1);
  });

  test("refuses a graph that it does not know, by the node's name", async () => {
    await using model = await tinyModel();
    const graph = decodeModel(await readFile(model.onnxPath));
    graph.graph.node.find(({ name }) => name.includes("layers.1/mlp/down_proj"))!.opType = "MatMul";
    await writeFile(model.onnxPath, encodeModel(graph));
    await assert.rejects(createSimdBackend({ modelDir: model.path, config: model.config }), {
      name: "ModelFileError",
      message: /node \/model\/layers\.1\/mlp\/down_proj\/MatMulNBits is MatMul, wanted MatMulNBits/,
    });
  });
});

describe("simd on the bundled model", () => {
  let model: ModelFolder;
  let backend: Backend;
  let ids: number[];
  let whole: Float32Array;
  before(async () => {
    model = await readModelFolder(await resolveModelPath());
    backend = await createSimdBackend({ modelDir: model.path, config: model.config });
    const tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
    ids = tokenizer.encode(await readFile(new URL("../../../ARCHITECTURE.md", import.meta.url), "utf8")).slice(0, 200);
    whole = (await backend.forward([{ tokenIds: ids, logits: "all" }]))[0]!.logits;
  });
  after(async () => await backend[Symbol.asyncDispose]());

  test("a token's logits are the same bits however its sequence was cut, cached or not", async () => {
    const { vocabSize } = model.config;
    for (const cuts of [[1, 7, 2, 16], [64], [33, 1]]) {
      using cache = backend.createKvCache();
      for (let at = 0, i = 0; at < ids.length; i++) {
        const tokenIds = ids.slice(at, at + cuts[i % cuts.length]!);
        const [row] = await backend.forward([{ cache, tokenIds, logits: "all" }]);
        at += tokenIds.length;
        assert.deepEqual(row!.logits, whole.subarray((at - tokenIds.length) * vocabSize, at * vocabSize), `${at}`);
      }
    }
  });

  for (const threads of [2, 3]) {
    test(`gives the same bits on ${threads} threads`, async () => {
      await using other = await createSimdBackend({ modelDir: model.path, config: model.config, threads });
      assert.equal(other.info.threads, threads);
      const { vocabSize } = model.config;
      using cache = other.createKvCache();
      const [prompt] = await other.forward([{ cache, tokenIds: ids.slice(0, 150), logits: "all" }]);
      assert.deepEqual(prompt!.logits, whole.subarray(0, 150 * vocabSize));
      for (let at = 150; at < ids.length; at++) {
        const [row] = await other.forward([{ cache, tokenIds: [ids[at]!] }]);
        assert.deepEqual(row!.logits, whole.subarray(at * vocabSize, (at + 1) * vocabSize), `${at}`);
      }
    });
  }

  test("going back and on again gives the same bits", async () => {
    using cache = backend.createKvCache();
    await backend.forward([{ cache, tokenIds: [...ids.slice(0, 90), 5, 6, 7, 8, 9], logits: "none" }]);
    cache.truncate(90);
    const [row] = await backend.forward([{ cache, tokenIds: ids.slice(90, 100) }]);
    assert.deepEqual(row!.logits, whole.subarray(99 * model.config.vocabSize, 100 * model.config.vocabSize));
  });

  test("stays near to f32 activations: mean KL divergence and the likeliest token", async () => {
    const { config } = model;
    await using reference = await createOrtWasmBackend({
      modelDir: model.path,
      config,
      threads: 2,
      memoryBudgetBytes: 2 ** 33,
    });
    const want = (await reference.forward([{ tokenIds: ids, logits: "all" }]))[0]!.logits;
    let divergence = 0;
    let same = 0;
    for (let at = 0; at < whole.length; at += config.vocabSize) {
      const [p, q] = [want.subarray(at, at + config.vocabSize), whole.subarray(at, at + config.vocabSize)];
      const [pNorm, qNorm] = [logSumExp(p), logSumExp(q)];
      p.forEach((logit, id) => divergence += Math.exp(logit - pNorm) * (logit - pNorm - (q[id]! - qNorm)));
      if (argmax(p) === argmax(q)) same++;
    }
    console.log(`mean KL ${(divergence / ids.length).toExponential(2)}, same argmax ${same} of ${ids.length}`);
    assert.ok(divergence / ids.length < 0.008, `${divergence / ids.length}`);
    assert.ok(same / ids.length > 0.92, `${same} of ${ids.length}`);
  });

  test("keeps hidden states and lm_head together", async () => {
    const [row] = await backend.forward([{ tokenIds: ids.slice(0, 5), logits: "last", hiddenStates: true }]);
    assert.equal(row!.hiddenStates!.length, 5 * model.config.hiddenSize);
    assert.deepEqual(row!.logits, whole.subarray(4 * model.config.vocabSize, 5 * model.config.vocabSize));
  });
});
