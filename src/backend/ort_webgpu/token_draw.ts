import type { Draw } from "../backend.ts";
import { Usage } from "./gpu_usage.ts";

/** More candidates than a cut by top-p or min-p is looked for among. */
export const MOST_CANDIDATES = 256;

/**
 * The draw of `sampling/sampler.ts`, by one workgroup, in f32: over all of the vocabulary in its order, or over ranked
 * candidates from the best on.
 */
const SHADER = /* wgsl */ `
struct Params { vocab: u32, count: u32, top_k: u32, temperature: f32, top_p: f32, min_p: f32, random: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
// As ranking.ts leaves it: logSumExp, then id and logit of the best, second, ...
@group(0) @binding(2) var<storage, read> ranked: array<u32>;
// The drawn id as the int64 that the next step reads.
@group(0) @binding(3) var<storage, read_write> next_id: array<u32>;

const THREADS = 256u;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> shares: array<f32, ${MOST_CANDIDATES}>;

fn chance(logit: f32, best: f32) -> f32 { return exp((logit - best) / params.temperature); }

// Leaves in values what each thread and those before it gave together.
fn add_up(thread: u32, own: f32) {
  values[thread] = own;
  workgroupBarrier();
  for (var reach = 1u; reach < THREADS; reach *= 2u) {
    var other = 0.0f;
    if (thread >= reach) { other = values[thread - reach]; }
    workgroupBarrier();
    values[thread] += other;
    workgroupBarrier();
  }
}

fn take(id: u32) {
  next_id[0] = id;
  next_id[1] = 0u;
}

@compute @workgroup_size(THREADS)
fn draw_any(@builtin(local_invocation_index) thread: u32) {
  let best = bitcast<f32>(ranked[2]);
  let each = (params.vocab + THREADS - 1u) / THREADS;
  let first = min(thread * each, params.vocab);
  let end = min(first + each, params.vocab);
  var own = 0.0f;
  for (var id = first; id < end; id++) { own += chance(logits[id], best); }
  add_up(thread, own);
  var before = 0.0f;
  if (thread > 0u) { before = values[thread - 1u]; }
  let wanted = params.random * values[THREADS - 1u];
  // What rounding leaves over belongs to the best, which ranking took already.
  if (before <= wanted && wanted < values[thread]) {
    var left = wanted - before;
    for (var id = first; id < end; id++) {
      left -= chance(logits[id], best);
      if (left < 0.0f) {
        take(id);
        break;
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn draw_ranked(@builtin(local_invocation_index) thread: u32) {
  let best = bitcast<f32>(ranked[2]);
  if (thread < params.count) { shares[thread] = chance(bitcast<f32>(ranked[2u + 2u * thread]), best); }
  // Top-p looks at probabilities among the top-k, or among all.
  var own = 0.0f;
  if (params.top_k > 0u) {
    if (thread < params.count) { own = shares[thread]; }
  } else {
    for (var id = thread; id < params.vocab; id += THREADS) { own += chance(logits[id], best); }
  }
  add_up(thread, own);
  if (thread > 0u) { return; }
  let norm = values[THREADS - 1u];
  var kept = 0u;
  var sum = 0.0f;
  for (; kept < params.count; kept++) {
    if (kept > 0u && (sum >= params.top_p * norm || shares[kept] < params.min_p)) { break; }
    sum += shares[kept];
  }
  var left = params.random * sum;
  for (var i = 0u; i < kept; i++) {
    left -= shares[i];
    if (left < 0.0f) {
      take(ranked[1u + 2u * i]);
      break;
    }
  }
}`;

/**
 * Chooses the next token on the GPU as the sampler will, so that the step after it may begin at once. Rounding may
 * choose another one, once in a million: the sampler has the last word, and such a step was in vain.
 */
export class TokenDraw {
  readonly #device: GPUDevice;
  readonly #vocabSize: number;
  readonly #layout: GPUBindGroupLayout;
  readonly #any: GPUComputePipeline;
  readonly #ranked: GPUComputePipeline;
  readonly #params: GPUBuffer;

  constructor(device: GPUDevice, vocabSize: number) {
    this.#device = device;
    this.#vocabSize = vocabSize;
    const module = device.createShaderModule({ code: SHADER });
    const types = ["uniform", "read-only-storage", "read-only-storage", "storage"] as const;
    const COMPUTE = 4;
    this.#layout = device.createBindGroupLayout({
      entries: types.map((type, binding) => ({ binding, visibility: COMPUTE, buffer: { type } })),
    });
    const layout = device.createPipelineLayout({ bindGroupLayouts: [this.#layout] });
    const pipeline = (entryPoint: string) => device.createComputePipeline({ layout, compute: { module, entryPoint } });
    [this.#any, this.#ranked] = [pipeline("draw_any"), pipeline("draw_ranked")];
    this.#params = device.createBuffer({ size: 32, usage: Usage.UNIFORM | Usage.COPY_DST });
  }

  /**
   * @param logits f32 `[vocab_size]`
   * @param ranked the best of them, as `Ranking` gives them
   * @param nextId int64 `[1]`, has the best and gets what is drawn
   */
  bind(logits: GPUBuffer, ranked: GPUBuffer, nextId: GPUBuffer): GPUBindGroup {
    return this.#device.createBindGroup({
      layout: this.#layout,
      entries: [this.#params, logits, ranked, nextId].map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
  }

  /**
   * One draw a submission: what it is by is written before the encoder's commands.
   * @param draw of which `candidatesOf` logits are ranked, or more
   */
  encode(encoder: GPUCommandEncoder, group: GPUBindGroup, draw: Draw, random: number): void {
    const { temperature, topK, topP, minP } = draw;
    const count = candidatesOf(draw);
    const params = new DataView(new ArrayBuffer(28));
    [this.#vocabSize, count, topK].forEach((value, i) => params.setUint32(4 * i, value, true));
    [temperature, topP, minP, random].forEach((value, i) => params.setFloat32(12 + 4 * i, value, true));
    this.#device.queue.writeBuffer(this.#params, 0, params.buffer);
    const pass = encoder.beginComputePass();
    pass.setPipeline(drawsFromAll(draw) ? this.#any : this.#ranked);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(1);
    pass.end();
  }
}

/** Whether every token has its chance. */
const drawsFromAll = ({ topK, topP, minP }: Draw): boolean => topK === 0 && topP === 1 && minP === 0;

/** How many of the best logits a draw needs on the GPU. */
export const candidatesOf = (draw: Draw): number =>
  drawsFromAll(draw) ? 1 : draw.topK > 0 ? Math.min(draw.topK, MOST_CANDIDATES) : MOST_CANDIDATES;
