import { type Draw, MOST_RANKED } from "../backend.ts";
import { Usage } from "./gpu_usage.ts";

/**
 * The draw of `sampling/sampler.ts`, by one workgroup, in f32: over all of the vocabulary in its order, over ranked
 * candidates from the best on, or from the best on over as many as top-p and min-p keep. These are not ranked: how far
 * behind the best a token may be is found three bits at a time, by what all tokens up to there add up to.
 */
const SHADER = /* wgsl */ `
// most_behind is what min-p allows, as behind() says it.
struct Params { vocab: u32, top_k: u32, most_behind: u32, temperature: f32, top_p: f32, random: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
// As ranking.ts leaves it: logSumExp, then id and logit of the best, second, ...
@group(0) @binding(2) var<storage, read> ranked: array<u32>;
// The drawn id as the int64 that the next step reads.
@group(0) @binding(3) var<storage, read_write> next_id: array<u32>;

const THREADS = 256u;
// Further behind the best is no number.
const END = 0x7f800001u;
const ANY = 0xffffffffu;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> shares: array<f32, ${MOST_RANKED}>;
var<workgroup> masses: array<mat2x4f, THREADS>;

// How far a token is behind the best, as the bits of an f32: from 0 on they are in its order.
fn behind(logit: f32) -> u32 { return bitcast<u32>(bitcast<f32>(ranked[2]) - logit); }

fn chance(behind: u32) -> f32 {
  return select(0.0f, exp(-bitcast<f32>(behind) / params.temperature), behind < END);
}

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

// What a token counts among those that are so far behind, or among any.
fn weight(id: u32, place: u32) -> f32 {
  let own = behind(logits[id]);
  if (place == ANY) { return chance(own); }
  return select(0.0f, 1.0f, own == place);
}

// Takes, in the vocabulary's order, the token at a share from 0 to 1 of what they count together.
fn take_among(thread: u32, place: u32, share: f32) {
  let each = (params.vocab + THREADS - 1u) / THREADS;
  let first = min(thread * each, params.vocab);
  let end = min(first + each, params.vocab);
  var own = 0.0f;
  for (var id = first; id < end; id++) { own += weight(id, place); }
  add_up(thread, own);
  var before = 0.0f;
  if (thread > 0u) { before = values[thread - 1u]; }
  // A share that rounding made 1 is the last one's.
  let wanted = min(share, 0.99999994f) * values[THREADS - 1u];
  // What rounding leaves over belongs to the best, which ranking took already.
  if (before <= wanted && wanted < values[thread]) {
    var left = wanted - before;
    for (var id = first; id < end; id++) {
      left -= weight(id, place);
      if (left < 0.0f) {
        take(id);
        break;
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn draw_any(@builtin(local_invocation_index) thread: u32) { take_among(thread, ANY, params.random); }

@compute @workgroup_size(THREADS)
fn draw_ranked(@builtin(local_invocation_index) thread: u32) {
  // Top-p looks at probabilities among the top-k.
  var own = 0.0f;
  if (thread < params.top_k) {
    own = chance(behind(bitcast<f32>(ranked[2u + 2u * thread])));
    shares[thread] = own;
  }
  add_up(thread, own);
  if (thread > 0u) { return; }
  let norm = values[THREADS - 1u];
  let least = chance(params.most_behind);
  var kept = 0u;
  var sum = 0.0f;
  for (; kept < params.top_k; kept++) {
    if (kept > 0u && (sum >= params.top_p * norm || shares[kept] < least)) { break; }
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
}

// What tokens before each of eight places add up to: step, 2 step, ... behind place. Memory answers late, so four
// logits are asked for at a time, and each is counted for all eight.
fn masses_before(thread: u32, place: u32, step: u32) -> mat2x4f {
  let near = vec4u(place) + step * vec4u(1u, 2u, 3u, 4u);
  let far = vec4u(place) + step * vec4u(5u, 6u, 7u, 8u);
  let last = params.vocab - 1u;
  var own = mat2x4f();
  for (var id = thread; id < params.vocab; id += 4u * THREADS) {
    let ids = vec4u(id) + THREADS * vec4u(0u, 1u, 2u, 3u);
    let at = min(ids, vec4u(last));
    let four = vec4f(logits[at.x], logits[at.y], logits[at.z], logits[at.w]);
    let places = bitcast<vec4u>(vec4f(bitcast<f32>(ranked[2])) - four);
    let chances = exp(-bitcast<vec4f>(places) / params.temperature);
    let counted = select(vec4f(), chances, (places < vec4u(END)) & (ids <= vec4u(last)));
    for (var i = 0u; i < 4u; i++) {
      own[0] += select(vec4f(), vec4f(counted[i]), vec4u(places[i]) < near);
      own[1] += select(vec4f(), vec4f(counted[i]), vec4u(places[i]) < far);
    }
  }
  masses[thread] = own;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if (thread < half) { masses[thread] += masses[thread + half]; }
    workgroupBarrier();
  }
  return workgroupUniformLoad(&masses[0]);
}

// What tokens before a place add up to.
fn mass_before(thread: u32, place: u32) -> f32 { return masses_before(thread, place, 0u)[0].x; }

// The place of the token that makes so much of what those from the best on add up to.
fn place_at(thread: u32, mass: f32) -> u32 {
  var place = 0u;
  // Of the last bit the eight places are more than enough.
  for (var shift = 28u; ; shift = max(shift, 3u) - 3u) {
    let found = masses_before(thread, place, 1u << shift);
    let below = select(vec4u(), vec4u(1u), found[0] < vec4f(mass)) + select(vec4u(), vec4u(1u), found[1] < vec4f(mass));
    let steps = below.x + below.y + below.z + below.w;
    place += min(steps, 7u) << shift;
    if (shift == 0u) { break; }
  }
  return place;
}

@compute @workgroup_size(THREADS)
fn draw_nucleus(@builtin(local_invocation_index) thread: u32) {
  let needed = min(params.top_p * mass_before(thread, END), mass_before(thread, params.most_behind + 1u));
  let last = place_at(thread, needed);
  let before = mass_before(thread, last);
  // Of equals in the last place top-p keeps no more than it needs.
  let each = chance(last);
  let sum = min(before + each * ceil((needed - before) / each), mass_before(thread, last + 1u));
  let wanted = params.random * sum;
  let place = place_at(thread, wanted);
  let start = mass_before(thread, place);
  take_among(thread, place, (wanted - start) / (mass_before(thread, place + 1u) - start));
}`;

/**
 * Chooses the next token on the GPU as the sampler will, so that the step after it may begin at once. It adds up in f32
 * what the sampler does in f64: of 300 draws on the bundled model's logits none is another one at temperatures up to 1.2,
 * 1 is at temperature 2 with top-p 0.95. The sampler has the last word, and such a step was in vain.
 */
export class TokenDraw {
  readonly #device: GPUDevice;
  readonly #vocabSize: number;
  readonly #layout: GPUBindGroupLayout;
  readonly #pipelines: Readonly<Record<EntryPoint, GPUComputePipeline>>;
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
    const pipeline = (entryPoint: EntryPoint) =>
      device.createComputePipeline({ layout, compute: { module, entryPoint } });
    this.#pipelines = {
      draw_any: pipeline("draw_any"),
      draw_ranked: pipeline("draw_ranked"),
      draw_nucleus: pipeline("draw_nucleus"),
    };
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
    const params = new DataView(new ArrayBuffer(24));
    [this.#vocabSize, topK].forEach((value, i) => params.setUint32(4 * i, value, true));
    const mostBehind = temperature * Math.log(1 / minP);
    [mostBehind, temperature, topP, random].forEach((value, i) => params.setFloat32(8 + 4 * i, value, true));
    this.#device.queue.writeBuffer(this.#params, 0, params.buffer);
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipelines[entryPointOf(draw)]);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(1);
    pass.end();
  }
}

type EntryPoint = "draw_any" | "draw_ranked" | "draw_nucleus";

function entryPointOf({ topK, topP, minP }: Draw): EntryPoint {
  if (topK > 0) return "draw_ranked";
  return topP === 1 && minP === 0 ? "draw_any" : "draw_nucleus";
}

/** How many of the best logits a draw needs on the GPU. */
export const candidatesOf = (draw: Draw): number => Math.max(draw.topK, 1);
