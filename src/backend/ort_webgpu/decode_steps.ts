import type { RowResult } from "../backend.ts";
import type { SessionRow } from "../model_session.ts";
import type { GpuKv } from "./gpu_kv.ts";
import { Usage } from "./gpu_usage.ts";
import type { GraphRunner } from "./graph_runner.ts";
import type { KvBuffers } from "./kv_pool.ts";
import { rankedBytes, type Ranking, readRanked } from "./ranking.ts";
import type { PendingRead, ReadBack } from "./read_back.ts";
import { candidatesOf, TokenDraw } from "./token_draw.ts";
import type { WindowRing } from "./window_ring.ts";

/** A step of decode that has been given to the GPU. */
interface Step {
  /** Tokens before it. */
  start: number;
  /** Logits that come back ranked; `undefined`: all of them. */
  top: number | undefined;
  /** Gives them, and the id that the GPU chose to follow, as int64. */
  read: PendingRead;
}

/** Of an int64. */
const ID_BYTES = 8;

/** A cache with the steps that were begun before they were asked for. */
export class DecodeStream {
  readonly kv: GpuKv;
  /** The id that the GPU chose for the first of `ahead`, once known. */
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
 * Passes of one token. The GPU chooses the id that follows, the best or as it will be drawn here, and keeps it as the
 * next step's input: steps are begun before the ids of earlier ones are known on this side.
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
  readonly #draw: TokenDraw;
  readonly #drawGroups = new WeakMap<KvBuffers, GPUBindGroup>();
  /** Of the step that was submitted last. */
  #last: PendingRead | undefined;

  constructor(parts: DecodeStepsParts) {
    this.#parts = parts;
    const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
    const buffer = (size: number) => parts.device.createBuffer({ size, usage });
    this.#position = buffer(8);
    this.#logits = buffer(4 * parts.vocabSize);
    this.#ranked = buffer(rankedBytes(1, parts.vocabSize));
    this.#draw = new TokenDraw(parts.device, parts.vocabSize);
  }

  /**
   * Evaluates a row of one token, perhaps begun already, and begins with others after it.
   * @throws {OutOfMemoryError} when the GPU has no room
   */
  async next(stream: DecodeStream, row: SessionRow): Promise<RowResult> {
    const { start, tokenIds: [id], top, ahead = 0, draw } = row;
    const [begun] = stream.ahead;
    const isBegun = begun?.start === start && begun.top === top && stream.nextId === id;
    const step = isBegun ? stream.ahead.shift()! : await this.#first(stream, row);
    const most = draw ? Math.min(ahead, draw.randoms.length - 1) : top === 1 ? ahead : 0;
    const until = Math.min(start + 1 + Math.min(most, this.#parts.most), stream.kv.capacity);
    for (let at = start + 1 + stream.ahead.length; at < until; at++) {
      stream.ahead.push(await this.#begin(stream, row, at));
    }
    const bytes = await step.read.result();
    stream.nextId = new DataView(bytes).getUint32(bytes.byteLength - ID_BYTES, true);
    if (top !== undefined) return { logits: new Float32Array(), top: readRanked(bytes, 1, top) };
    return { logits: new Float32Array(bytes, 0, this.#parts.vocabSize) };
  }

  async #first(stream: DecodeStream, row: SessionRow): Promise<Step> {
    const { start, tokenIds: [id] } = row;
    await stream.dropAhead();
    await stream.kv.reserve(start + 1, start);
    const { buffers } = stream.kv;
    this.#parts.device.queue.writeBuffer(buffers.nextId, 0, new BigInt64Array([BigInt(id!)]));
    return await this.#begin(stream, row, start);
  }

  /**
   * Gives the GPU a step that evaluates the id in `nextId` and leaves there the one that follows.
   * @param row that was asked for; the step is for it, or for one after it
   * @param start tokens before the step's
   */
  async #begin(stream: DecodeStream, { start: from, top, draw }: SessionRow, start: number): Promise<Step> {
    const { device, runner, ring, ranking, reads, vocabSize } = this.#parts;
    const kv = stream.kv.buffers;
    const wanted = { positions: { buffer: this.#position, count: 1 }, logits: this.#logits };
    const encoder = ring && start >= ring.window
      ? await ring.run(stream, start, wanted)
      : await runner.run({ ...wanted, kv, start, ids: kv.nextId, tokens: 1, replay: true });
    const random = draw?.randoms[start - from];
    const candidates = Math.max(top ?? 1, draw ? candidatesOf(draw) : 1);
    ranking.encode(encoder, this.#group(kv, candidates), 1);
    if (draw && random !== undefined) {
      this.#draw.encode(encoder, this.#drawGroup(kv), draw, random);
    }
    const logits = top === undefined
      ? { source: this.#logits, bytes: 4 * vocabSize }
      : { source: this.#ranked, bytes: rankedBytes(1, top) };
    const read = reads.copy(encoder, logits, { source: kv.nextId, bytes: ID_BYTES });
    const commands = encoder.finish();
    // In Deno 2.9 mapAsync() returns when all is done that was submitted: any earlier, and the GPU would have nothing to
    // do while the next step is encoded.
    this.#last?.begin();
    device.queue.submit([commands]);
    this.#last = read;
    return { start, top, read };
  }

  #drawGroup(kv: KvBuffers): GPUBindGroup {
    const group = this.#drawGroups.get(kv) ?? this.#draw.bind(this.#logits, this.#ranked, kv.nextId);
    this.#drawGroups.set(kv, group);
    return group;
  }

  #group(kv: KvBuffers, count: number): GPUBindGroup {
    const groups = this.#groups.get(kv) ?? new Map<number, GPUBindGroup>();
    this.#groups.set(kv, groups);
    const group = groups.get(count) ?? this.#parts.ranking.bind(count, this.#logits, this.#ranked, kv.nextId);
    groups.set(count, group);
    return group;
  }
}
