import assert from "node:assert/strict";
import { test } from "node:test";
import { FallbackBackend } from "../../../src/backend/fallback_backend.ts";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import { Engine } from "../../../src/engine/engine.ts";
import type { GenerateEvent, GenerateRequest } from "../../../src/engine/generate_request.ts";
import { noGpu, tinyPhi3 } from "./gpu.ts";

const prompt = Array.from({ length: 20 }, (_, i) => 7 + 13 * i);
const turn = (ids: number[]): GenerateRequest => ({
  prompt: { ids },
  maxTokens: 30,
  ignoreEos: true,
  session: { id: "s" },
});

async function read(engine: Engine, request: GenerateRequest): Promise<{ ids: number[]; events: GenerateEvent[] }> {
  const events = await Array.fromAsync(engine.generate(request));
  return { ids: events.flatMap((event) => event.type === "token" ? [event.id] : []), events };
}

for (const [where, passes] of [["in prefill", 0], ["in decode", 12]] as const) {
  test(`a turn goes on with simd when the GPU is lost ${where}, and so does its session`, { skip: noGpu }, async () => {
    await using folder = await tinyPhi3();
    const { model } = folder;
    const options = { modelDir: model.path, config: model.config };
    const simd = (reason?: string) => createSimdBackend({ ...options, activations: "f32", reason });
    const kvBudgetBytes = 2 ** 30;
    await using alone = new Engine(model, await simd(), { kvBudgetBytes });
    const first = (await read(alone, turn(prompt))).ids;
    const second = (await read(alone, turn([...prompt, ...first, 5]))).ids;

    const crashes: string[] = [];
    const gpu = await createOrtWebgpuBackend({
      ...options,
      precision: "f32",
      restarts: false,
      loseAfter: passes,
      onCrash: ({ message }) => crashes.push(message),
    });
    await using engine = new Engine(model, new FallbackBackend(gpu, simd), { kvBudgetBytes });
    const { ids, events } = await read(engine, turn(prompt));
    assert.deepEqual(ids, first);
    const moved = events.filter((event) => event.type === "backend");
    assert.equal(moved.length, 1);
    assert.equal(moved[0]!.name, "simd");
    assert.match(moved[0]!.reason, /after ort-webgpu failed: .*the GPU was lost/);
    assert.equal(crashes.length, 1);
    assert.equal(engine.backend.info.name, "simd");
    assert.equal(engine.backend.failure, undefined);
    const again = await read(engine, turn([...prompt, ...first, 5]));
    assert.deepEqual(again.ids, second);
    assert.ok(again.events.every(({ type }) => type !== "backend"));
  });
}
