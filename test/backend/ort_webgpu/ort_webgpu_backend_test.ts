import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend, TopLogits } from "../../../src/backend/backend.ts";
import { createOrtWebgpuBackend, type OrtWebgpuOptions } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import type { KvCache } from "../../../src/kv/kv_cache.ts";
import { argmax, largest, logSumExp } from "../../../src/sampling/softmax.ts";
import { tinyModel } from "../tiny_model.ts";
import { noGpu, type TinyPhi3, tinyPhi3 } from "./gpu.ts";
import { collect } from "../../kv/collect.ts";

/** Ids of a prompt without meaning. */
const promptOf = (tokens: number) => Array.from({ length: tokens }, (_, i) => 5 + (i * 7919) % 900);

/** Greedy ids after `id`, each asked for with all that may be begun ahead. */
async function greedy(backend: Backend, cache: KvCache, id: number, tokens: number, ahead = true): Promise<number[]> {
  const ids = [id];
  while (ids.length <= tokens) {
    const row = { cache, tokenIds: [ids.at(-1)!], top: 1, ahead: ahead ? tokens - ids.length : 0 };
    const [result] = await backend.forward([row]);
    ids.push(result!.top?.[0]?.ids[0] ?? argmax(result!.logits));
  }
  return ids.slice(1);
}

const distance = (a: Float32Array, b: Float32Array) => a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!)), 0);

describe("ort-webgpu on a tiny Phi-3", { skip: noGpu }, () => {
  let folder: TinyPhi3;
  let exact: Backend;
  before(async () => {
    folder = await tinyPhi3();
    const { path, config } = folder.model;
    exact = await createSimdBackend({ modelDir: path, config, activations: "f32" });
  });
  after(async () => {
    await exact[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  });
  const start = (options: Partial<OrtWebgpuOptions> = {}) => {
    const { path, config } = folder.model;
    return createOrtWebgpuBackend({ modelDir: path, config, precision: "f32", ...options });
  };

  for (const capture of [true, false]) {
    test(`f32 gives simd's logits and greedy ids, ${capture ? "captured" : "not captured"}`, async () => {
      await using gpu = await start({ capture });
      for (const tokens of [1, 20, 300]) {
        const prompt = promptOf(tokens);
        using cache = gpu.createKvCache();
        using exactCache = exact.createKvCache();
        const [got] = await gpu.forward([{ cache, tokenIds: prompt, logits: "all", hiddenStates: true }]);
        const [want] = await exact.forward([{
          cache: exactCache,
          tokenIds: prompt,
          logits: "all",
          hiddenStates: true,
        }]);
        assert.equal(got!.logits.length, want!.logits.length);
        assert.ok(distance(got!.logits, want!.logits) < 1e-3, `${distance(got!.logits, want!.logits)}`);
        assert.equal(got!.hiddenStates!.length, want!.hiddenStates!.length);
        assert.ok(distance(got!.hiddenStates!, want!.hiddenStates!) < 1e-3);
        const last = argmax(want!.logits.subarray(-folder.model.config.vocabSize));
        const ids = await greedy(exact, exactCache, last, 40, false);
        assert.deepEqual(await greedy(gpu, cache, last, 40), ids, `${tokens} tokens, begun ahead`);
        cache.truncate(tokens);
        assert.deepEqual(await greedy(gpu, cache, last, 40, false), ids, `${tokens} tokens, one by one`);
      }
    });
  }

  test("f16 stays near, and takes half the memory", async () => {
    await using gpu = await start({ precision: "f16" });
    const prompt = promptOf(20);
    const [got] = await gpu.forward([{ tokenIds: prompt }]);
    const [want] = await exact.forward([{ tokenIds: prompt }]);
    const spread = Math.max(...want!.logits) - Math.min(...want!.logits);
    assert.ok(
      distance(got!.logits, want!.logits) < 0.01 * spread,
      `${distance(got!.logits, want!.logits)} of ${spread}`,
    );
    const { numHiddenLayers, numKeyValueHeads, headDim } = folder.model.config;
    assert.equal(gpu.kvBytes(1), 128 * 2 * numHiddenLayers * numKeyValueHeads * headDim * 2);
  });

  test("ranks logits as sorting all of them does", async () => {
    await using gpu = await start();
    const prompt = promptOf(9);
    const { vocabSize } = folder.model.config;
    const [{ logits }] = await gpu.forward([{ tokenIds: prompt, logits: "all" }]) as [{ logits: Float32Array }];
    for (const top of [1, 2, 50, 256]) {
      using cache = gpu.createKvCache();
      const [all] = await gpu.forward([{ cache, tokenIds: prompt, logits: "all", top }]);
      cache.truncate(prompt.length - 1);
      const [step] = await gpu.forward([{ cache, tokenIds: prompt.slice(-1), top }]);
      assert.equal(all!.logits.length, 0);
      assert.equal(all!.top!.length, prompt.length);
      const check = (ranked: TopLogits, position: number, tolerance: number) => {
        const want = logits.slice(position * vocabSize, (position + 1) * vocabSize);
        assert.deepEqual([...ranked.ids], [...largest(want, top)]);
        ranked.ids.forEach((id, i) => assert.ok(Math.abs(ranked.logits[i]! - want[id]!) <= tolerance));
        assert.ok(Math.abs(ranked.logSumExp - logSumExp(want)) < 1e-4);
      };
      all!.top!.forEach((ranked, position) => check(ranked, position, 0));
      check(step!.top![0]!, prompt.length - 1, 1e-3);
    }
  });

  test("KV is truncated, forked, exported and imported, and each goes on as if nothing had been", async () => {
    await using gpu = await start();
    const prompt = promptOf(30);
    using cache = gpu.createKvCache();
    await gpu.forward([{ cache, tokenIds: prompt, logits: "none" }]);
    const want = await greedy(gpu, cache, 7, 20);
    // What was begun ahead of the end, or of another answer, is forgotten.
    cache.truncate(prompt.length);
    await greedy(gpu, cache, 9, 3);
    using fork = cache.fork(prompt.length);
    cache.truncate(prompt.length);
    const bytes = await collect(gpu.exportKv(cache));
    using imported = await gpu.importKv([bytes], prompt.length);
    assert.deepEqual((await gpu.stats()).kvBlocks, 3);
    assert.equal((await gpu.stats()).kvBytes, 3 * gpu.kvBytes(prompt.length));
    for (const kv of [imported, fork, cache]) assert.deepEqual(await greedy(gpu, kv, 7, 20), want);
    await assert.rejects(gpu.importKv([bytes.subarray(4)], prompt.length), { name: "RangeError" });
    for (const kv of [imported, fork, cache]) kv.dispose();
    assert.deepEqual(await gpu.stats(), { kvBlocks: 0, kvBytes: 0 });
  });

  test("a cache grows past its capacity in prefill and in decode, up to the context", async () => {
    await using gpu = await start();
    const { contextLength } = folder.model.config;
    const prompt = promptOf(120);
    using cache = gpu.createKvCache();
    using exactCache = exact.createKvCache();
    await gpu.forward([{ cache, tokenIds: prompt, logits: "none" }]);
    await exact.forward([{ cache: exactCache, tokenIds: prompt, logits: "none" }]);
    // 128 and 256 are capacities.
    const want = await greedy(exact, exactCache, 7, 160, false);
    assert.deepEqual(await greedy(gpu, cache, 7, 160), want);
    await gpu.forward([{ cache, tokenIds: promptOf(contextLength - cache.length) }]);
    assert.equal(cache.length, contextLength);
    assert.equal(cache.bytes, gpu.kvBytes(contextLength));
    await assert.rejects(gpu.forward([{ cache, tokenIds: [1] }]), { name: "RangeError" });
  });

  test("beyond the window recorded steps give what others give, whoever had the memory before", async () => {
    for (const precision of ["f32", "f16"] as const) {
      await using recorded = await start({ precision });
      await using others = await start({ precision, capture: false });
      const answers = await Promise.all([recorded, others].map(async (backend) => {
        const best: number[] = [];
        // The first one's memory has a recorded step, and is free when the second one needs some for its window of 255.
        for (const tokens of [130, 260, 250]) {
          using cache = backend.createKvCache();
          await backend.forward([{ cache, tokenIds: promptOf(tokens), logits: "none" }]);
          for (let i = 0; i < 20; i++) {
            const [row] = await backend.forward([{ cache, tokenIds: [7 + i], top: 1 }]);
            best.push(row!.top![0]!.logits[0]!);
          }
        }
        return best;
      }));
      const tolerance = precision === "f32" ? 1e-3 : 0.1;
      answers[0]!.forEach((logit, i) => {
        assert.ok(Math.abs(logit - answers[1]![i]!) < tolerance, `${precision}, ${i}: ${logit}, ${answers[1]![i]}`);
      });
    }
  });

  test("streams that take turns have each its own ids", async () => {
    await using gpu = await start();
    const prompts = [promptOf(5), promptOf(17), promptOf(33)];
    const alone: number[][] = [];
    for (const prompt of prompts) {
      using cache = gpu.createKvCache();
      await gpu.forward([{ cache, tokenIds: prompt, logits: "none" }]);
      alone.push(await greedy(gpu, cache, 3, 24));
    }
    const together = await Promise.all(prompts.map(async (prompt) => {
      using cache = gpu.createKvCache();
      await gpu.forward([{ cache, tokenIds: prompt, logits: "none" }]);
      return await greedy(gpu, cache, 3, 24);
    }));
    assert.deepEqual(together, alone);
  });

  test("reads at once, as is not documented, give the same", async () => {
    await using gpu = await start();
    await using unsafe = await start({ unsafe: { read: true } });
    const answers = await Promise.all([gpu, unsafe].map(async (backend) => {
      using cache = backend.createKvCache();
      return [...await greedy(backend, cache, 3, 30), ...await greedy(backend, cache, 5, 30, false)];
    }));
    assert.deepEqual(answers[1], answers[0]);
  });

  test("software is no GPU where a GPU is wanted", async () => {
    await using gpu = await start();
    if (!/llvmpipe|swiftshader/i.test(gpu.info.device!)) return;
    await assert.rejects(start({ software: false }), {
      name: "BackendUnavailableError",
      message: /computes on the CPU/,
    });
  });
});

describe("ort-webgpu on the bundled model's layout", { skip: noGpu }, () => {
  test("takes float zero points, fused gate and up, and a quantized embedding", async () => {
    await using model = await tinyModel();
    const options = { modelDir: model.path, config: model.config };
    await using gpu = await createOrtWebgpuBackend({ ...options, precision: "f32" });
    await using exact = await createSimdBackend({ ...options, activations: "f32" });
    const tokenIds = [3, 17, 39, 0, 17, 8, 25, 31, 4, 4, 12];
    const [got] = await gpu.forward([{ tokenIds, logits: "all" }]);
    const [want] = await exact.forward([{ tokenIds, logits: "all" }]);
    assert.ok(distance(got!.logits, want!.logits) < 1e-3, `${distance(got!.logits, want!.logits)}`);
    // More than there are: all.
    const [ranked] = await gpu.forward([{ tokenIds, top: 2 * model.config.vocabSize }]);
    assert.deepEqual(ranked!.top![0]!.ids.toSorted(), Int32Array.from({ length: model.config.vocabSize }, (_, i) => i));
  });
});
