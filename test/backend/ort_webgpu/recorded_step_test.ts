import assert from "node:assert/strict";
import { test } from "node:test";
import { findAdapter, openDevice } from "../../../src/backend/ort_webgpu/gpu_device.ts";
import { MAP_MODE_READ, Usage } from "../../../src/backend/ort_webgpu/gpu_usage.ts";
import { RecordedStep } from "../../../src/backend/ort_webgpu/recorded_step.ts";
import { noGpu } from "./gpu.ts";

/** Of `GPUBufferUsage`, which Bun has only once Dawn is loaded. */
const INDIRECT = 0x0100;

/** Doubles each of four numbers, by a workgroup each. */
const SHADER = `
@group(0) @binding(0) var<storage, read_write> numbers: array<u32>;
@compute @workgroup_size(1)
fn double(@builtin(workgroup_id) group: vec3u) { numbers[group.x] *= 2u; }`;

async function doubling() {
  const device = await openDevice(await findAdapter());
  const pipeline = device.createComputePipeline({
    layout: "auto",
    compute: { module: device.createShaderModule({ code: SHADER }), entryPoint: "double" },
  });
  const numbers = device.createBuffer({ size: 16, usage: Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST });
  const counts = device.createBuffer({ size: 16, usage: INDIRECT | Usage.COPY_DST });
  device.queue.writeBuffer(counts, 4, new Uint32Array([2, 1, 1]));
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer: numbers } }],
  });
  /** All four, then the first two once more. */
  const run = () => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(4);
    pass.dispatchWorkgroupsIndirect(counts, 4);
    pass.end();
    device.queue.submit([encoder.finish()]);
    return Promise.resolve();
  };
  const read = async () => {
    const staging = device.createBuffer({ size: 16, usage: Usage.MAP_READ | Usage.COPY_DST });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(numbers, 0, staging, 0, 16);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(MAP_MODE_READ);
    return [...new Uint32Array(staging.getMappedRange().slice(0))];
  };
  device.queue.writeBuffer(numbers, 0, new Uint32Array([1, 1, 1, 1]));
  return { device, numbers, run, read };
}

test("a recorded step does what it was recorded from, again and again", { skip: noGpu }, async () => {
  const { device, run, read } = await doubling();
  const step = await RecordedStep.of(device, run);
  assert.deepEqual(await read(), [4, 4, 2, 2]);
  const encoder = device.createCommandEncoder();
  step!.encode(encoder);
  step!.encode(encoder);
  device.queue.submit([encoder.finish()]);
  assert.deepEqual(await read(), [64, 64, 8, 8]);
  device.destroy();
});

test("a run that does more than dispatch is not recorded, and is left as it is", { skip: noGpu }, async () => {
  const { device, numbers, run, read } = await doubling();
  const more: (() => void)[] = [
    () => device.queue.writeBuffer(numbers, 0, new Uint32Array([1, 1, 1, 1])),
    () => device.createCommandEncoder().clearBuffer(numbers),
    () => device.createBuffer({ size: 16, usage: Usage.COPY_DST }).destroy(),
  ];
  for (const other of more) {
    assert.equal(
      await RecordedStep.of(device, async () => {
        await run();
        other();
      }),
      undefined,
    );
  }
  assert.equal(await RecordedStep.of(device, () => Promise.resolve()), undefined);
  await assert.rejects(RecordedStep.of(device, () => Promise.reject(new Error("lost"))), /lost/);
  for (const name of ["createCommandEncoder", "createBuffer", "createBindGroup"]) {
    assert.ok(!Object.hasOwn(device, name), name);
  }
  assert.ok(!Object.hasOwn(device.queue, "writeBuffer"));
  assert.deepEqual(await read(), [16, 16, 4, 4]);
  device.destroy();
});
