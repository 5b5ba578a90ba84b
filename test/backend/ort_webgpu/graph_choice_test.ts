import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { DiskStore, MemoryStore } from "../../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../../models/synthetic_model.ts";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createEngine } from "../../../src/engine/create_engine.ts";
import { onnxFile } from "../../../src/model/onnx_file.ts";
import { LocalHub } from "../../hub/local_hub.ts";
import { layoutModel } from "../layout_cases.ts";
import { noGpu } from "./gpu.ts";

test("of two graphs of a model f16 takes the one in f16, and f32 the other", { skip: noGpu }, async () => {
  await using model = await layoutModel({ size: "tiny", layout: "web", promptTokens: 0, tolerance: 0 });
  {
    using store = new DiskStore(model.path);
    writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "xenova");
  }
  await writeFile(onnxFile(model.path, "f32"), "no graph");
  const start = (precision: "f16" | "f32") =>
    createOrtWebgpuBackend({ modelDir: model.path, config: model.config, precision });
  await using gpu = await start("f16");
  const [row] = await gpu.forward([{ tokenIds: [5, 6], top: 1 }]);
  assert.equal(row!.top![0]!.ids.length, 1);
  {
    // KV of other weights is none of this arithmetic's, though the folder is as before for a CPU.
    using store = new DiskStore(model.path);
    writeSyntheticOnnx(store, { size: "tiny", seed: 2 }, "web");
  }
  await using other = await start("f16");
  assert.notEqual(other.info.variant, gpu.info.variant);
  assert.equal(other.info.variant.slice(0, -16), gpu.info.variant.slice(0, -16));
  await assert.rejects(start("f32"), { name: "ModelFileError", message: /model_q4\.onnx/ });
});

test("a model that is not there is pulled with the graph that a GPU is to run", { skip: noGpu }, async () => {
  const store = new MemoryStore();
  for (const layout of ["xenova", "web"] as const) writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, layout);
  const cache = await mkdtemp(join(tmpdir(), "hearth-choice-"));
  const before = { ...process.env };
  try {
    await using hub = await LocalHub.start("tiny/Phi-3_both", store.files());
    Object.assign(process.env, { HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_TOKEN: "" });
    await using engine = await createEngine({ model: hub.name, backend: "ort-webgpu", kvBudgetBytes: 2 ** 28 });
    assert.equal(engine.backend.info.name, "ort-webgpu");
    assert.deepEqual((await readdir(join(engine.model.path, "onnx"))).sort(), [
      "model_q4f16.onnx",
      "model_q4f16.onnx_data",
    ]);
  } finally {
    for (const name of ["HF_ENDPOINT", "HF_HUB_CACHE", "HF_TOKEN"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
    await rm(cache, { recursive: true, force: true });
  }
});
