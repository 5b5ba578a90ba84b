import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { Backend } from "../../../src/backend/backend.ts";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import type { KvCache } from "../../../src/kv/kv_cache.ts";
import { Sampler } from "../../../src/sampling/sampler.ts";
import { resolveSamplingParams, type SamplingParams } from "../../../src/sampling/sampling_params.ts";
import { noGpu, tinyPhi3 } from "./gpu.ts";

/** What may happen to the caches of a backend; `cache` is taken modulo how many there are, `at` is a share of its length. */
type Step =
  | { do: "append"; cache: number; tokens: number }
  | { do: "decode"; cache: number; tokens: number; ahead: number; sampling: Partial<SamplingParams> }
  | { do: "truncate" | "fork" | "park"; cache: number; at: number }
  | { do: "dispose"; cache: number };

const cache = fc.nat(9);
const at = fc.double({ min: 0, max: 1, noNaN: true });
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constant("append" as const), cache, tokens: fc.integer({ min: 1, max: 90 }) }),
  fc.record({
    do: fc.constant("decode" as const),
    cache,
    tokens: fc.integer({ min: 1, max: 6 }),
    ahead: fc.nat(9),
    sampling: fc.constantFrom({}, { topK: 40 }, { topP: 0.9 }, { temperature: 0.7 }).map((sampling) => ({
      ...sampling,
      doSample: Object.keys(sampling).length > 0,
      seed: 1,
    })),
  }),
  fc.record({ do: fc.constantFrom("truncate" as const, "fork" as const, "park" as const), cache, at }),
  fc.record({ do: fc.constant("dispose" as const), cache }),
);

/**
 * Runs a program; gives the best logit of each pass, with those of equal rank left to rounding, and the tokens chosen.
 * @param chosen those of another run, where rounding may have chosen others. @default the sampler's
 */
async function run(backend: Backend, program: readonly Step[], chosen?: readonly number[]) {
  const [best, ids]: [number[], number[]] = [[], []];
  const caches: KvCache[] = [backend.createKvCache()];
  for (const step of program) {
    const place = step.cache % caches.length;
    const cache = caches[place]!;
    const cut = "at" in step ? Math.floor(step.at * cache.length) : 0;
    switch (step.do) {
      case "append": {
        const tokenIds = Array.from({ length: step.tokens }, (_, i) => (31 * i + 7 * cache.length) % 1000);
        const [row] = await backend.forward([{ cache, tokenIds, top: 1 }]);
        best.push(row!.top![0]!.logits[0]!);
        break;
      }
      case "decode": {
        const sampler = new Sampler(resolveSamplingParams(step.sampling));
        for (let i = 0, id = 3; i < step.tokens; i++) {
          const { ahead } = step;
          const draw = sampler.upcoming(ahead + 1);
          const [row] = await backend.forward([{ cache, tokenIds: [id], top: sampler.wanted, ahead, draw }]);
          const logits = row!.top?.[0] ?? row!.logits;
          best.push(logits instanceof Float32Array ? Math.max(...logits) : logits.logits[0]!);
          ids.push(sampler.sample(logits).id);
          // Every third id is another one than the sampler's.
          id = i % 3 === 2 ? 9 : (chosen ?? ids)[ids.length - 1]!;
        }
        break;
      }
      case "truncate":
        cache.truncate(cut);
        break;
      case "fork":
        caches.push(cache.fork(cut));
        break;
      case "park":
        cache.truncate(cut);
        caches[place] = await backend.importKv(backend.exportKv(cache), cut);
        cache.dispose();
        break;
      case "dispose":
        cache.dispose();
        caches[place] = backend.createKvCache();
    }
  }
  for (const cache of caches) cache.dispose();
  return { best, ids };
}

test("random programs on KV give simd's logits, whatever was begun ahead", { skip: noGpu }, async () => {
  await using folder = await tinyPhi3();
  const options = { modelDir: folder.model.path, config: folder.model.config };
  await using gpu = await createOrtWebgpuBackend({ ...options, precision: "f32" });
  await using exact = await createSimdBackend({ ...options, activations: "f32" });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 10 }), async (program) => {
      // 512 tokens are the context.
      const tokens = program.reduce((sum, step) => sum + ("tokens" in step ? step.tokens : 0), 0);
      fc.pre(tokens < 500);
      const { best: got, ids } = await run(gpu, program);
      const { best: want } = await run(exact, program, ids);
      assert.equal(got.length, want.length);
      got.forEach((logit, i) => assert.ok(Math.abs(logit - want[i]!) < 1e-3, `pass ${i}: ${logit}, wanted ${want[i]}`));
      assert.deepEqual(await gpu.stats(), { kvBlocks: 0, kvBytes: 0 });
    }),
    { numRuns: Number(process.env.PROGRAMS ?? 25) },
  );
});
