/** What `ACTIVATIONS=f32` means on a GPU. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { selectBackend } from "../../../src/backend/select_backend.ts";
import { readModelFolder } from "../../../src/model/model_folder.ts";
import { caseName, LAYOUT_CASES, layoutModel, promptOf } from "../layout_cases.ts";
import { checkGolden, goldenOf, run } from "../layout_runs.ts";
import { noGpu } from "./gpu.ts";

const item = LAYOUT_CASES.find((item) => caseName(item) === "tiny web")!;

test("activations of f32 keep a GPU from f16, so that an f16 file gives onnxruntime-node's logits", {
  skip: noGpu,
}, async () => {
  await using folder = await layoutModel(item);
  const model = await readModelFolder(folder.path);
  const golden = goldenOf(item);
  await using gpu = await selectBackend("ort-webgpu", {
    model,
    threads: 1,
    activations: "f32",
    memoryBudgetBytes: Infinity,
  });
  assert.match(gpu.info.variant, /^ort-webgpu-[^/]+\/f32\//);
  checkGolden(await run(gpu, promptOf(item), golden.greedy), golden, model.config.vocabSize, item.tolerance, 2);
});
