/** Every layout on every CPU backend, held to what onnxruntime-node gave (`test/parity/layout_goldens.ts`). */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createOrtWasmBackend } from "../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { argmax, logSumExp } from "../../src/sampling/softmax.ts";
import { caseName, LAYOUT_CASES, type LayoutModel, layoutModel, promptOf } from "./layout_cases.ts";
import { checkGolden, goldenOf, run } from "./layout_runs.ts";

const createOrtWasm = ({ path, config }: LayoutModel) =>
  createOrtWasmBackend({ modelDir: path, config, threads: 1, memoryBudgetBytes: 2 ** 32 });
const createSimd = (activations: "f32" | "int8") => ({ path, config }: LayoutModel) =>
  createSimdBackend({ modelDir: path, config, activations });

for (const item of LAYOUT_CASES) {
  const golden = goldenOf(item);
  describe(caseName(item), () => {
    const exact = [["ort-wasm", createOrtWasm], ["simd with f32 activations", createSimd("f32")]] as const;
    for (const [name, create] of exact) {
      test(`${name} gives onnxruntime-node's logits and greedy tokens`, async () => {
        await using model = await layoutModel(item);
        await using backend = await create(model);
        const made = await run(backend, promptOf(item), golden.greedy);
        checkGolden(made, golden, model.config.vocabSize, item.tolerance);
      });
    }

    test("simd with int8 activations stays near to it", async () => {
      await using model = await layoutModel(item);
      await using backend = await createSimd("int8")(model);
      await using reference = await createSimd("f32")(model);
      const { vocabSize } = model.config;
      const [q, p] = await Promise.all([backend, reference].map((one) => run(one, promptOf(item), [])));
      const { divergence, same, lead } = compare(p!.logits, q!.logits, vocabSize);
      console.log(
        `${caseName(item)}: mean KL ${divergence.toExponential(2)}, same argmax ${same.toFixed(3)}, ` +
          `others led by ${lead.toFixed(2)} at most`,
      );
      assert.ok(divergence < 0.004, `${divergence}`);
      // Random weights make many near-ties: what differs are those.
      assert.ok(same > 0.85 && lead < 0.3, `${same}, ${lead}`);
    });
  });
}

/** Mean KL divergence, the share of positions with the same likeliest token, and by how much others led in `p`. */
function compare(p: Float32Array, q: Float32Array, vocabSize: number) {
  let [divergence, same, lead] = [0, 0, 0];
  for (let at = 0; at < p.length; at += vocabSize) {
    const [a, b] = [p.subarray(at, at + vocabSize), q.subarray(at, at + vocabSize)];
    const [aNorm, bNorm] = [logSumExp(a), logSumExp(b)];
    a.forEach((logit, id) => divergence += Math.exp(logit - aNorm) * (logit - aNorm - (b[id]! - bNorm)));
    const [best, other] = [argmax(a), argmax(b)];
    if (best === other) same++;
    else lead = Math.max(lead, a[best]! - a[other]!);
  }
  const positions = p.length / vocabSize;
  return { divergence: divergence / positions, same: same / positions, lead };
}

test("a window of 2,047 tokens is kept where the file has it, and nowhere else", () => {
  const cases = LAYOUT_CASES.filter(({ size }) => size === "tiny-wide");
  const [kept, none] = cases.map(goldenOf);
  // The same weights: equal logits as long as the window reaches back to the first token, others beyond.
  kept!.positions.forEach((position, p) => {
    const difference = Math.max(...kept!.logits[p]!.map((logit, i) => Math.abs(logit - none!.logits[p]![i]!)));
    assert.ok(position < 2047 ? difference < 1e-3 : difference > 1e-2, `token ${position}: ${difference}`);
  });
});
