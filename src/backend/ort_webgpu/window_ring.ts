import type { DecodeStream } from "./decode_steps.ts";
import { gpuKvCapacity, gpuKvTokenBytes, type KvFormat } from "./gpu_kv.ts";
import { Usage } from "./gpu_usage.ts";
import type { GraphRun, GraphRunner } from "./graph_runner.ts";
import type { KvBuffers, KvPool } from "./kv_pool.ts";
import type { LoadedRotary } from "./loaded_graph.ts";

/** Copies the token at one place of the ring to another one, and to the cache. One workgroup has 64 words of a head. */
const SHADER = /* wgsl */ `
struct Move {
  heads: u32, words: u32, ring_capacity: u32, cache_capacity: u32,
  from_place: u32, to_place: u32, cache_place: u32,
}
@group(0) @binding(0) var<uniform> places: Move;
@group(0) @binding(1) var<storage, read_write> ring: array<u32>;
@group(0) @binding(2) var<storage, read_write> cache: array<u32>;

@compute @workgroup_size(64)
fn settle(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= places.heads * places.words) { return; }
  let head = id.x / places.words;
  let word = id.x % places.words;
  let value = ring[(head * places.ring_capacity + places.from_place) * places.words + word];
  ring[(head * places.ring_capacity + places.to_place) * places.words + word] = value;
  cache[(head * places.cache_capacity + places.cache_place) * places.words + word] = value;
}`;

/** Parts of {@linkcode WindowRing}. */
export interface WindowRingParts {
  device: GPUDevice;
  format: KvFormat;
  pool: KvPool;
  runner: GraphRunner;
  /** The model's own tables. */
  rotary: LoadedRotary;
  /** Tokens that attention looks back on, the query included. */
  window: number;
}

/**
 * Steps of decode for sequences longer than the window of attention, where steps are recorded. Attention then looks at
 * all places of KV, so it gets just those in the window: `window - 1` tokens in a ring, their order of no concern to it,
 * and the new one at the last place. Keys were turned to their positions when they were written; the new one is by a
 * table whose last row is its position's. After the step it moves into the ring, over the token that leaves the window,
 * and into the cache, which holds all. There is one ring: the sequence that has it fills it when it was another's.
 */
export class WindowRing {
  readonly window: number;
  readonly #parts: WindowRingParts;
  readonly #pipeline: GPUComputePipeline;
  readonly #move: GPUBuffer;
  readonly #tables: { cos: GPUBuffer; sin: GPUBuffer };
  /** A bind group for each layer's keys and values. */
  readonly #groups = new WeakMap<KvBuffers, GPUBindGroup[]>();
  #ring: KvBuffers | undefined;
  #owner: DecodeStream | undefined;

  constructor(parts: WindowRingParts) {
    const { device, rotary: { cos, sin }, window } = parts;
    this.#parts = parts;
    this.window = window;
    this.#pipeline = device.createComputePipeline({
      layout: "auto",
      compute: { module: device.createShaderModule({ code: SHADER }), entryPoint: "settle" },
    });
    this.#move = device.createBuffer({ size: 32, usage: Usage.UNIFORM | Usage.COPY_DST });
    const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
    const table = (size: number) => device.createBuffer({ size, usage });
    this.#tables = { cos: table(cos.buffer.size), sin: table(sin.buffer.size) };
  }

  /**
   * A step that evaluates the id in the stream's `nextId` after `start` tokens, `window` or more.
   * @returns an encoder for what follows
   * @throws {OutOfMemoryError} when the GPU has no room for the ring
   */
  async run(
    stream: DecodeStream,
    start: number,
    { positions, logits }: Pick<GraphRun, "positions" | "logits">,
  ): Promise<GPUCommandEncoder> {
    const { device, format, pool, runner, rotary, window } = this.#parts;
    const ring = this.#ring ??= await pool.takeNew(gpuKvCapacity(window, format.config.contextLength));
    const cache = stream.kv.buffers;
    const before = device.createCommandEncoder();
    if (this.#owner !== stream || stream.ringEnd !== start) this.#fill(before, cache, ring, start);
    this.#owner = stream;
    const last = window - 1;
    const row = rotary.cos.buffer.size / rotary.dims[0]!;
    before.copyBufferToBuffer(rotary.cos.buffer, start * row, this.#tables.cos, last * row, row);
    before.copyBufferToBuffer(rotary.sin.buffer, start * row, this.#tables.sin, last * row, row);
    before.copyBufferToBuffer(cache.nextId, 0, ring.nextId, 0, 8);
    const encoder = await runner.run({
      kv: ring,
      start: last,
      ids: ring.nextId,
      tokens: 1,
      positions,
      logits,
      rotary: this.#tables,
      replay: true,
      encoder: before,
    });
    this.#settle(encoder, cache, ring, start);
    stream.ringEnd = start + 1;
    return encoder;
  }

  /** The `window - 1` tokens before `start`: each at the place of its position, modulo so many. */
  #fill(encoder: GPUCommandEncoder, cache: KvBuffers, ring: KvBuffers, start: number): void {
    const { format, window } = this.#parts;
    const { config: { numKeyValueHeads } } = format;
    const stride = this.#headTokenBytes;
    const size = window - 1;
    const first = start - size;
    const place = first % size;
    cache.buffers.forEach((from, i) => {
      const copy = (head: number, position: number, to: number, tokens: number) =>
        encoder.copyBufferToBuffer(
          from,
          (head * cache.capacity + position) * stride,
          ring.buffers[i]!,
          (head * ring.capacity + to) * stride,
          tokens * stride,
        );
      for (let head = 0; head < numKeyValueHeads; head++) {
        copy(head, first, place, size - place);
        if (place > 0) copy(head, first + size - place, 0, place);
      }
    });
  }

  #settle(encoder: GPUCommandEncoder, cache: KvBuffers, ring: KvBuffers, start: number): void {
    const { device, format: { config: { numKeyValueHeads } }, window } = this.#parts;
    const words = this.#headTokenBytes / 4;
    const to = start % (window - 1);
    const move = [numKeyValueHeads, words, ring.capacity, cache.capacity, window - 1, to, start];
    // Before the encoder's commands, which are of one step.
    device.queue.writeBuffer(this.#move, 0, new Uint32Array(move));
    const pass = encoder.beginComputePass();
    pass.setPipeline(this.#pipeline);
    for (const group of this.#groupsOf(cache, ring)) {
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(Math.ceil(numKeyValueHeads * words / 64));
    }
    pass.end();
  }

  #groupsOf(cache: KvBuffers, ring: KvBuffers): GPUBindGroup[] {
    const known = this.#groups.get(cache);
    if (known) return known;
    const layout = this.#pipeline.getBindGroupLayout(0);
    const groups = cache.buffers.map((buffer, i) =>
      this.#parts.device.createBindGroup({
        layout,
        entries: [this.#move, ring.buffers[i]!, buffer].map((buffer, binding) => ({ binding, resource: { buffer } })),
      })
    );
    this.#groups.set(cache, groups);
    return groups;
  }

  /** Bytes of one head's keys, or values, of one token. */
  get #headTokenBytes(): number {
    const { format } = this.#parts;
    const { numHiddenLayers, numKeyValueHeads } = format.config;
    return gpuKvTokenBytes(format) / (2 * numHiddenLayers * numKeyValueHeads);
  }
}
