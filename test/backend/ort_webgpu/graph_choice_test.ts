import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { test } from "node:test";
import { DiskStore } from "../../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../../models/synthetic_model.ts";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { onnxFile } from "../../../src/model/onnx_file.ts";
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
  await assert.rejects(start("f32"), { name: "ModelFileError", message: /model_q4\.onnx/ });
});
