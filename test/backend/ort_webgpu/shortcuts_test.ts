import assert from "node:assert/strict";
import { test } from "node:test";
import { avoidMappedUploads } from "../../../src/backend/ort_webgpu/deno_uploads.ts";
import { findAdapter, openDevice } from "../../../src/backend/ort_webgpu/gpu_device.ts";
import { GpuSession, type GpuSessionOptions } from "../../../src/backend/ort_webgpu/gpu_session.ts";
import { MAP_MODE_READ, Usage } from "../../../src/backend/ort_webgpu/gpu_usage.ts";
import { loadGraph } from "../../../src/backend/ort_webgpu/loaded_graph.ts";
import { loadOnnxRuntime } from "../../../src/backend/ort_webgpu/onnxruntime.ts";
import { observe } from "../../../src/backend/ort_webgpu/observe.ts";
import type { ModelFolder } from "../../../src/model/model_folder.ts";
import { onnxFile } from "../../../src/model/onnx_file.ts";
import { Sampler } from "../../../src/sampling/sampler.ts";
import { resolveSamplingParams } from "../../../src/sampling/sampling_params.ts";
import { noGpu, tinyPhi3 } from "./gpu.ts";

/** A session on a device that can be watched. */
async function openSession({ path, config }: ModelFolder, options: Pick<GpuSessionOptions, "capture" | "ahead">) {
  const found = await findAdapter();
  const device = await openDevice(found);
  avoidMappedUploads(device);
  const ort = await loadOnnxRuntime();
  const session = await GpuSession.create(
    (captures) =>
      loadGraph({ ort, device, config, onnxPath: onnxFile(path), half: false, activations: "f32" }, captures),
    { ort, device, deviceName: found.name, config, half: false, unsafeRead: false, ...options },
  );
  return { device, session };
}

test("steps of decode are replayed, not encoded anew, on each set of buffers", { skip: noGpu }, async () => {
  await using folder = await tinyPhi3();
  const bindGroups: Record<string, number[]> = {};
  const submissions: Record<string, number[]> = {};
  for (const capture of [true, false]) {
    const { device, session } = await openSession(folder.model, { capture, ahead: 0 });
    let [made, submitted] = [0, 0];
    observe(device, "createBindGroup", () => made++);
    observe(device.queue, "submit", () => submitted++);
    const counts: number[] = bindGroups[`${capture}`] = [];
    const submits: number[] = submissions[`${capture}`] = [];
    for (const step of [0, 1, 2, 3]) {
      for (const cacheId of [1, 2]) {
        [made, submitted] = [0, 0];
        const row = { cacheId, start: step, tokenIds: [5 + step], logits: "last", hiddenStates: false } as const;
        await session.run([{ ...row, top: 1, inspect: [] }]);
        counts.push(made);
        submits.push(submitted);
      }
    }
    await session.close();
  }
  assert.deepEqual(bindGroups.true!.slice(2), [0, 0, 0, 0, 0, 0]);
  assert.ok(bindGroups.false!.every((count) => count > 10), `${bindGroups.false}`);
  // onnxruntime replays the second step; its commands are all there is from then on.
  assert.deepEqual(submissions.true!.slice(4), [1, 1, 1, 1]);
  assert.ok(submissions.false!.every((count) => count > 1), `${submissions.false}`);
});

for (const [name, sampling] of Object.entries({ greedy: {}, drawn: { doSample: true, temperature: 0.7, seed: 3 } })) {
  test(`the GPU has a step to do while the next one is encoded, ${name}`, { skip: noGpu }, async () => {
    await using folder = await tinyPhi3();
    const { device, session } = await openSession(folder.model, { capture: true, ahead: 2 });
    const calls: string[] = [];
    observe(device, "createCommandEncoder", () => calls.push("encode"));
    observe(device, "createBuffer", (_, buffer) => observe(buffer, "mapAsync", () => calls.push("map")));
    observe(device.queue, "submit", () => calls.push("submit"));
    const sampler = new Sampler(resolveSamplingParams(sampling));
    const top = sampler.wanted;
    let id = 5;
    for (let start = 0; start < 8; start++) {
      const ahead = 7 - start;
      const draw = sampler.upcoming(ahead + 1);
      const row = { cacheId: 1, start, tokenIds: [id], logits: "last", hiddenStates: false, ahead, draw } as const;
      const [result] = await session.run([{ ...row, top, inspect: [] }]);
      id = sampler.sample(result!.top?.[0] ?? result!.logits).id;
      // The steps before record, and fill what is begun ahead.
      if (start === 3) calls.length = 0;
    }
    await session.close();
    const step = ["encode", "map", "submit"];
    assert.deepEqual(calls, [...step, ...step, "map"]);
  });
}

test("avoidMappedUploads() hands over what was written into the mapped range", { skip: noGpu }, async () => {
  const device = await openDevice(await findAdapter());
  avoidMappedUploads(device);
  const bytes = Uint8Array.from({ length: 64 }, (_, i) => 3 * i);
  const upload = device.createBuffer({ size: 64, usage: Usage.MAP_WRITE | Usage.COPY_SRC, mappedAtCreation: true });
  new Uint8Array(upload.getMappedRange()).set(bytes);
  upload.unmap();
  const staging = device.createBuffer({ size: 64, usage: Usage.MAP_READ | Usage.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(upload, 0, staging, 0, 64);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(MAP_MODE_READ);
  assert.deepEqual(new Uint8Array(staging.getMappedRange().slice(0)), bytes);
  // Others are as they were.
  const other = device.createBuffer({ size: 16, usage: Usage.COPY_SRC, mappedAtCreation: true });
  assert.equal(other.getMappedRange(4 * 2, 8).byteLength, 8);
  device.destroy();
});
