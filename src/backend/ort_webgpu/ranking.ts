import type { TopLogits } from "../backend.ts";
import { Usage } from "./gpu_usage.ts";

/** One workgroup ranks one position. */
const SHADER = /* wgsl */ `
struct Sizes { vocab: u32, count: u32 }
@group(0) @binding(0) var<uniform> sizes: Sizes;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
// For each position: logSumExp, then id and logit of the best, second, ...
@group(0) @binding(2) var<storage, read_write> ranked: array<u32>;
// The last position's best as the int64 that the next step reads.
@group(0) @binding(3) var<storage, read_write> next_id: array<u32>;

const THREADS = 256u;
const NONE = 0xffffffffu;
const LOWEST = -3.4028234663852886e38f;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> ids: array<u32, THREADS>;

fn is_before(a: f32, a_id: u32, b: f32, b_id: u32) -> bool {
  return a > b || (a == b && a_id < b_id);
}

@compute @workgroup_size(THREADS)
fn rank(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) thread: u32,
) {
  let first = group.x * sizes.vocab;
  let out = group.x * (1u + 2u * sizes.count);
  var own_value = LOWEST;
  var own_id = NONE;
  for (var id = thread; id < sizes.vocab; id += THREADS) {
    let value = logits[first + id];
    if (is_before(value, id, own_value, own_id)) { own_value = value; own_id = id; }
  }
  for (var place = 0u; place < sizes.count; place++) {
    values[thread] = own_value;
    ids[thread] = own_id;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
      if (thread < half && is_before(values[thread + half], ids[thread + half], values[thread], ids[thread])) {
        values[thread] = values[thread + half];
        ids[thread] = ids[thread + half];
      }
      workgroupBarrier();
    }
    let best_value = values[0];
    let best_id = ids[0];
    workgroupBarrier();
    if (place == 0u) {
      var sum = 0.0f;
      for (var id = thread; id < sizes.vocab; id += THREADS) { sum += exp(logits[first + id] - best_value); }
      values[thread] = sum;
      workgroupBarrier();
      for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        if (thread < half) { values[thread] += values[thread + half]; }
        workgroupBarrier();
      }
      if (thread == 0u) {
        ranked[out] = bitcast<u32>(best_value + log(values[0]));
        if (group.x == groups.x - 1u) {
          next_id[0] = best_id;
          next_id[1] = 0u;
        }
      }
      workgroupBarrier();
    }
    if (thread == 0u) {
      ranked[out + 1u + 2u * place] = best_id;
      ranked[out + 2u + 2u * place] = bitcast<u32>(best_value);
    }
    // Only who had the best has to look for another.
    if (own_id == best_id) {
      own_value = LOWEST;
      own_id = NONE;
      for (var id = thread; id < sizes.vocab; id += THREADS) {
        let value = logits[first + id];
        if (is_before(best_value, best_id, value, id) && is_before(value, id, own_value, own_id)) {
          own_value = value;
          own_id = id;
        }
      }
    }
  }
}`;

/** Id of a position that has no number among its logits. */
const NONE = 0xffffffff;

/** Bytes of `positions` ranked positions. */
export const rankedBytes = (positions: number, count: number): number => 4 * positions * (1 + 2 * count);

/** Ranks logits on the GPU, so that ids and a few logits come back in place of the vocabulary. */
export class Ranking {
  readonly #device: GPUDevice;
  readonly #vocabSize: number;
  readonly #pipeline: GPUComputePipeline;
  /** By how many are wanted; they live as long as the device. */
  readonly #sizes = new Map<number, GPUBuffer>();

  constructor(device: GPUDevice, vocabSize: number) {
    this.#device = device;
    this.#vocabSize = vocabSize;
    this.#pipeline = device.createComputePipeline({
      layout: "auto",
      compute: { module: device.createShaderModule({ code: SHADER }), entryPoint: "rank" },
    });
  }

  /**
   * What `encode` works on.
   * @param logits f32 `[positions, vocab_size]`
   * @param ranked `rankedBytes`
   * @param nextId int64 `[1]`, gets the best of the last position
   */
  bind(count: number, logits: GPUBuffer, ranked: GPUBuffer, nextId: GPUBuffer): GPUBindGroup {
    return this.#device.createBindGroup({
      layout: this.#pipeline.getBindGroupLayout(0),
      entries: [this.#sizesOf(count), logits, ranked, nextId].map((buffer, binding) => ({
        binding,
        resource: { buffer },
      })),
    });
  }

  encode(encoder: GPUCommandEncoder, group: GPUBindGroup, positions: number): void {
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(positions);
    pass.end();
  }

  #sizesOf(count: number): GPUBuffer {
    const known = this.#sizes.get(count);
    if (known) return known;
    const buffer = this.#device.createBuffer({
      size: 8,
      usage: Usage.UNIFORM | Usage.COPY_DST,
    });
    this.#device.queue.writeBuffer(buffer, 0, new Uint32Array([this.#vocabSize, count]));
    this.#sizes.set(count, buffer);
    return buffer;
  }
}

/** Reads what the shader wrote. A position without a number gets the logit NaN, which no sampler takes. */
export function readRanked(bytes: ArrayBuffer, positions: number, count: number): TopLogits[] {
  const [words, floats] = [new Uint32Array(bytes), new Float32Array(bytes)];
  return Array.from({ length: positions }, (_, position) => {
    const at = position * (1 + 2 * count);
    const place = (i: number) => at + 1 + 2 * i;
    return {
      ids: Int32Array.from({ length: count }, (_, i) => words[place(i)]! === NONE ? 0 : words[place(i)]!),
      logits: Float32Array.from({ length: count }, (_, i) => words[place(i)]! === NONE ? NaN : floats[place(i) + 1]!),
      logSumExp: floats[at]!,
    };
  });
}
