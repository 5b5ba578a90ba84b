/** Every layout on a GPU, held to what onnxruntime-node gave for the same file. */
import { test } from "node:test";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { caseName, LAYOUT_CASES, layoutModel, promptOf, STEPS } from "../layout_cases.ts";
import { checkGolden, goldenOf, run } from "../layout_runs.ts";
import { noGpu } from "./gpu.ts";

/**
 * Of a logit in f16: the GPU rounds sums as well, and where the file is f16 onnxruntime rounds another way. Exact
 * arithmetic is up to 1.96e-2 from what onnxruntime gave for the web layout, f16 on the GPU 3.62e-2, with sums over
 * layers and norms in f32 2.04e-2, at four more kernels a layer.
 */
const F16 = { tolerance: 4e-2, nearTies: 2 };
/** LongRoPE's scale makes scores larger, and what f16 rounds off them; two of onnxruntime's own steps are ties. */
const F16_LONGROPE = { tolerance: 6e-2, nearTies: 3 };

/**
 * MultiHeadAttention, f16 in the file, LongRoPE, a part of a head turned, a tied embedding: what no other test has.
 * `test/extras.ts` runs all.
 */
const SHORT = ["tiny web in f32", "tiny web in f16", "tiny-longrope web in f32", "tiny-phi-4 hub-f16 in f16"];
const all = process.env.WEBGPU_REQUIRED !== undefined;

for (const item of LAYOUT_CASES) {
  for (const precision of ["f32", "f16"] as const) {
    const name = `${caseName(item)} in ${precision}`;
    if (!all && !SHORT.includes(name)) continue;
    test(`${name} gives onnxruntime-node's logits and greedy tokens`, { skip: noGpu }, async () => {
      await using model = await layoutModel(item);
      const { path, config } = model;
      const golden = goldenOf(item);
      await using gpu = await createOrtWebgpuBackend({ modelDir: path, config, precision });
      // 200,064 logits take a software GPU 0.2 s a step.
      const steps = item.size === "tiny-phi-4" ? 4 : STEPS;
      const made = await run(gpu, promptOf(item), golden.greedy.slice(0, steps));
      const half = item.size === "tiny-longrope" ? F16_LONGROPE : F16;
      const { tolerance, nearTies } = precision === "f32" ? { tolerance: item.tolerance, nearTies: 2 } : half;
      checkGolden(made, golden, config.vocabSize, tolerance, nearTies);
    });
  }
}
