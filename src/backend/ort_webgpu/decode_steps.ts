import type { TopLogits } from "../backend.ts";
import type { SessionRow } from "../model_session.ts";
import type { GpuKv } from "./gpu_kv.ts";
import { Usage } from "./gpu_usage.ts";
import type { GraphRunner } from "./graph_runner.ts";
import type { KvBuffers } from "./kv_pool.ts";
import { rankedBytes, type Ranking, readRanked } from "./ranking.ts";
import type { PendingRead, ReadBack } from "./read_back.ts";
import type { WindowRing } from "./window_ring.ts";

/** A step of decode that has been given to the GPU. */
interface Step {
  /** Tokens before it. */
  start: number;
  read: PendingRead;
}

/** A cache with the steps that were begun before they were asked for. */
export class Stream {
  readonly kv: GpuKv;
  /** The id that the GPU took for the first of `ahead`, once known. */
  nextId: number | undefined;
  readonly ahead: Step[] = [];
  /** Tokens whose last ones are in the ring, if that is this stream's; see `window_ring.ts`. */
  ringEnd: number | undefined;

  constructor(kv: GpuKv) {
    this.kv = kv;
  }

  /** Forgets steps that were begun for nothing: what they wrote lies beyond what counts of the cache. */
  async dropAhead(): Promise<void> {
    const dropped = this.ahead.splice(0);
    this.nextId = undefined;
    // Read all the same, or their buffers would be lost.
    for (const { read } of dropped) await read.result();
  }
}

/** Parts of {@linkcode DecodeSteps}. */
export interface DecodeStepsParts {
  device: GPUDevice;
  vocabSize: number;
  runner: GraphRunner;
  /** For steps beyond the window, where those of `runner` would be slow. */
  ring: WindowRing | undefined;
  ranking: Ranking;
  reads: ReadBack;
  /** Steps that may be on their way beside the one that is asked for. */
  most: number;
}

/**
 * Passes of one token with ranked logits. The best id stays on the GPU as the next step's input, so greedy steps are
 * begun before the ids of earlier ones are known here.
 */
export class DecodeSteps {
  readonly #parts: DecodeStepsParts;
  /** int64 `[1]`: 0, the only position. */
  readonly #position: GPUBuffer;
  /** f32 `[vocab_size]`. */
  readonly #logits: GPUBuffer;
  /** Ranked logits, of one count at a time. */
  readonly #ranked: GPUBuffer;
  /** By buffers and count. */
  readonly #groups = new WeakMap<KvBuffers, Map<number, GPUBindGroup>>();
  /** Of the step that was submitted last. */
  #last: PendingRead | undefined;

  constructor(parts: DecodeStepsParts) {
    this.#parts = parts;
    const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
    const buffer = (size: number) => parts.device.createBuffer({ size, usage });
    this.#position = buffer(8);
    this.#logits = buffer(4 * parts.vocabSize);
    this.#ranked = buffer(rankedBytes(1, parts.vocabSize));
  }

  /**
   * Evaluates a row of one token, perhaps begun already, and begins with others after it.
   * @param count logits to rank
   * @throws {OutOfMemoryError} when the GPU has no room
   */
  async next(stream: Stream, { start, tokenIds, ahead = 0 }: SessionRow, count: number): Promise<TopLogits> {
    const [id] = tokenIds;
    const begun = count === 1 && stream.ahead[0]?.start === start && stream.nextId === id;
    const step = begun ? stream.ahead.shift()! : await this.#first(stream, start, id!, count);
    const { kv } = stream;
    const until = count === 1 ? Math.min(start + 1 + Math.min(ahead, this.#parts.most), kv.capacity) : 0;
    for (let at = start + 1 + stream.ahead.length; at < until; at++) {
      stream.ahead.push(await this.#begin(stream, at, count));
    }
    const [top] = readRanked(await step.read.result(), 1, count);
    stream.nextId = top!.ids[0];
    return top!;
  }

  async #first(stream: Stream, start: number, id: number, count: number): Promise<Step> {
    await stream.dropAhead();
    await stream.kv.reserve(start + 1, start);
    const { buffers } = stream.kv;
    this.#parts.device.queue.writeBuffer(buffers.nextId, 0, new BigInt64Array([BigInt(id)]));
    return await this.#begin(stream, start, count);
  }

  /** Gives the GPU a step that evaluates the id in `nextId` and leaves the best of its logits there. */
  async #begin(stream: Stream, start: number, count: number): Promise<Step> {
    const { device, runner, ring, ranking, reads } = this.#parts;
    const kv = stream.kv.buffers;
    const wanted = { positions: { buffer: this.#position, count: 1 }, logits: this.#logits };
    const encoder = ring && start >= ring.window
      ? await ring.run(stream, start, wanted)
      : await runner.run({ ...wanted, kv, start, ids: kv.nextId, tokens: 1, replay: true });
    ranking.encode(encoder, this.#group(kv, count), 1);
    const read = reads.copy(encoder, this.#ranked, rankedBytes(1, count));
    const commands = encoder.finish();
    // In Deno 2.9 mapAsync() returns when all is done that was submitted: any earlier, and the GPU would have nothing to
    // do while the next step is encoded.
    this.#last?.begin();
    device.queue.submit([commands]);
    this.#last = read;
    return { start, read };
  }

  #group(kv: KvBuffers, count: number): GPUBindGroup {
    const groups = this.#groups.get(kv) ?? new Map<number, GPUBindGroup>();
    this.#groups.set(kv, groups);
    const group = groups.get(count) ?? this.#parts.ranking.bind(count, this.#logits, this.#ranked, kv.nextId);
    groups.set(count, group);
    return group;
  }
}
