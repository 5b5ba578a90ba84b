import { setTimeout as delay } from "node:timers/promises";
import type * as ort from "onnxruntime-web/jspi";
import type { ModelConfig } from "../../model/model_config.ts";
import type { BackendStats, RowResult, TopLogits } from "../backend.ts";
import { checkKvBytes, logitsPositions, type ModelSession, type SessionRow } from "../model_session.ts";
import { captured, UNCAPTURED } from "./graph_capture.ts";
import { LOGITS_POSITIONS, SEQLENS_K, TOTAL_LENGTH } from "./gpu_graph.ts";
import { Usage } from "./gpu_usage.ts";
import { GpuKv, gpuKvTokenBytes, type KvBuffers, type KvFormat, KvPool } from "./gpu_kv.ts";
import type { LoadedGraph } from "./loaded_graph.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";
import { PASS_TOKENS } from "./pass_tokens.ts";
import { rankedBytes, Ranking, readRanked } from "./ranking.ts";
import { type PendingRead, ReadBack } from "./read_back.ts";

/** How long the runtime may take to say that the device was lost, after a pass failed of it, in milliseconds. */
const LOST_MS = 250;

/** Options of {@linkcode GpuSession.create}. */
export interface GpuSessionOptions {
  ort: OnnxRuntime;
  device: GPUDevice;
  /** The GPU's name, for people. */
  deviceName: string;
  config: ModelConfig;
  half: boolean;
  /** Replay captured steps of decode. */
  capture: boolean;
  /** Steps of greedy decode that may be on their way beside the one that is asked for. */
  ahead: number;
  /** Read results by what Deno does not document. */
  unsafeRead: boolean;
}

/** A step of decode that has been given to the GPU. */
interface Step {
  /** Tokens before it. */
  start: number;
  read: PendingRead;
}

/** A cache with the steps that were begun ahead of being asked for. */
interface Stream {
  kv: GpuKv;
  /** The token that the GPU took for the first of `ahead`, once known. */
  nextId: number | undefined;
  ahead: Step[];
}

/**
 * onnxruntime-web's WebGPU with a model in it. All inputs and outputs are GPU buffers: a greedy step of decode reads the
 * id that the step before left on the GPU, so steps are begun before the ids of earlier ones are known here.
 */
export class GpuSession implements ModelSession {
  readonly heapBytes = 0;
  readonly rowsPerPass = 1;
  readonly detail: string;
  readonly device: string;
  /** Whether it was closed: its device is then lost on purpose. */
  closed = false;
  readonly #Tensor: OnnxRuntime["Tensor"];
  readonly #device: GPUDevice;
  readonly #graph: LoadedGraph;
  readonly #loadBeyond: () => Promise<LoadedGraph>;
  readonly #options: GpuSessionOptions;
  readonly #format: KvFormat;
  #beyond: Promise<LoadedGraph> | undefined;
  readonly #pool: KvPool;
  readonly #ranking: Ranking;
  readonly #reads: ReadBack;
  readonly #streams = new Map<number, Stream>();
  readonly #kvInputs: readonly string[];
  readonly #kvOutputs: readonly string[];
  /** int32 `[1]` each: the lengths of the step that is encoded next. */
  readonly #lastPosition: GPUBuffer;
  readonly #totalLength: GPUBuffer;
  /** int64 `[1]`: 0, the only position of a step of decode. */
  readonly #firstPosition: GPUBuffer;
  /** f32 `[1, 1, vocab_size]`: a step's. */
  readonly #logits: GPUBuffer;
  /** A step's ranked logits, of one count at a time. */
  readonly #ranked: GPUBuffer;
  /** By buffers and count. */
  readonly #rankGroups = new WeakMap<KvBuffers, Map<number, GPUBindGroup>>();

  /** @param load called again, for a graph that cannot capture, when a stream outgrows the window of attention */
  static async create(
    load: (captures: boolean) => Promise<LoadedGraph>,
    options: GpuSessionOptions,
  ): Promise<GpuSession> {
    return new GpuSession(await load(options.capture), () => load(false), options);
  }

  private constructor(graph: LoadedGraph, loadBeyond: () => Promise<LoadedGraph>, options: GpuSessionOptions) {
    const { ort: { Tensor }, device, config, half, capture, unsafeRead } = options;
    this.#Tensor = Tensor;
    this.#graph = graph;
    this.#loadBeyond = loadBeyond;
    this.#options = options;
    this.#device = device;
    this.device = options.deviceName;
    this.#format = { config, half };
    this.#pool = new KvPool(device, Tensor, this.#format, capture);
    this.#ranking = new Ranking(device, config.vocabSize);
    this.#reads = new ReadBack(device, unsafeRead);
    this.detail = `KV as ${half ? "f16" : "f32"} in the GPU's memory, steps of decode ${
      capture ? "captured" : "not captured"
    }${unsafeRead ? ", reads by what is not documented" : ""}`;
    const kv = (kind: string) =>
      Array.from({ length: config.numHiddenLayers }, (_, i) => [`${kind}.${i}.key`, `${kind}.${i}.value`]).flat();
    this.#kvInputs = kv("past_key_values");
    this.#kvOutputs = kv("present");
    this.#lastPosition = this.#buffer(4);
    this.#totalLength = this.#buffer(4);
    this.#firstPosition = this.#buffer(8);
    this.#logits = this.#buffer(4 * config.vocabSize);
    this.#ranked = this.#buffer(rankedBytes(1, config.vocabSize));
  }

  async run(rows: readonly SessionRow[]): Promise<RowResult[]> {
    try {
      return await this.#run(rows);
    } catch (error) {
      // Of a lost GPU a pass hears first, as some error. The thread is about to end then, and that is what is told.
      const lost = this.#device.lost.then(() => new Promise<never>(() => {}));
      await Promise.race([lost, delay(LOST_MS)]);
      throw error;
    }
  }

  async #run([row]: readonly SessionRow[]): Promise<RowResult[]> {
    const { cacheId, start, tokenIds, logits, hiddenStates, top } = row!;
    const stream = this.#stream(cacheId);
    try {
      const step = tokenIds.length === 1 && logits === "last" && top !== undefined && !hiddenStates;
      if (step) return [{ logits: new Float32Array(), top: [await this.#decode(stream, row!, top)] }];
      await this.#dropAhead(stream);
      await stream.kv.reserve(start + tokenIds.length, start);
      const parts: RowResult[] = [];
      for (let from = 0; from < tokenIds.length; from += PASS_TOKENS) {
        const ids = tokenIds.slice(from, from + PASS_TOKENS);
        const last = from + ids.length === tokenIds.length;
        const wanted = logits === "last" && !last ? "none" : logits;
        parts.push(await this.#pass(stream.kv, { ...row!, start: start + from, tokenIds: ids, logits: wanted }));
      }
      return [joined(parts)];
    } finally {
      if (cacheId === undefined) stream.kv.free();
    }
  }

  freeCache(cacheId: number): void {
    const stream = this.#streams.get(cacheId);
    if (stream) this.#dropAhead(stream).catch(() => {});
    stream?.kv.free();
    this.#streams.delete(cacheId);
  }

  async forkCache(cacheId: number, toId: number, length: number): Promise<void> {
    const kv = await this.#stream(cacheId).kv.fork(length);
    this.#streams.set(toId, { kv, nextId: undefined, ahead: [] });
  }

  async exportCache(cacheId: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#stream(cacheId).kv.export(length, this.#reads);
  }

  async importCache(cacheId: number, length: number, bytes: Uint8Array): Promise<void> {
    checkKvBytes(bytes, length, length * gpuKvTokenBytes(this.#format));
    await this.#stream(cacheId).kv.import(length, bytes as Uint8Array<ArrayBuffer>);
  }

  stats(): BackendStats {
    const streams = [...this.#streams.values()];
    return { kvBlocks: streams.length, kvBytes: streams.reduce((sum, { kv }) => sum + kv.bytes, 0) };
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.#graph.session.release();
    await (await this.#beyond?.catch(() => undefined))?.session.release();
    this.#device.destroy();
  }

  #stream(cacheId: number | undefined): Stream {
    const known = cacheId === undefined ? undefined : this.#streams.get(cacheId);
    if (known) return known;
    const kv = new GpuKv(this.#device, this.#format, this.#pool);
    const stream: Stream = { kv, nextId: undefined, ahead: [] };
    if (cacheId !== undefined) this.#streams.set(cacheId, stream);
    return stream;
  }

  /** One token with ranked logits: perhaps begun already, and perhaps others are begun after it. */
  async #decode(stream: Stream, { start, tokenIds, ahead = 0 }: SessionRow, count: number): Promise<TopLogits> {
    const [id] = tokenIds;
    let step = count === 1 && stream.ahead[0]?.start === start && stream.nextId === id
      ? stream.ahead.shift()
      : undefined;
    if (!step) {
      await this.#dropAhead(stream);
      await stream.kv.reserve(start + 1, start);
      this.#device.queue.writeBuffer(stream.kv.buffers.nextId, 0, new BigInt64Array([BigInt(id!)]));
      step = await this.#begin(stream.kv.buffers, start, count);
    }
    const until = count === 1 ? Math.min(start + 1 + Math.min(ahead, this.#options.ahead), stream.kv.capacity) : 0;
    for (let next = start + 1 + stream.ahead.length; next < until; next++) {
      stream.ahead.push(await this.#begin(stream.kv.buffers, next, count));
    }
    const [top] = readRanked(await step.read.result(), 1, count);
    stream.nextId = top!.ids[0];
    return top!;
  }

  /** Gives the GPU a step that evaluates the id in `nextId` and leaves the best of its logits there. */
  async #begin(kv: KvBuffers, start: number, count: number): Promise<Step> {
    const graph = await this.#graphFor(start + 1);
    this.#writeLengths(start + 1);
    const { config } = this.#format;
    const feeds = this.#feeds(graph, kv, this.#int64(kv.nextId, [1, 1]), {
      positions: this.#int64(this.#firstPosition, [1]),
      total: start + 1,
    });
    const logits = this.#Tensor.fromGpuBuffer(this.#logits, { dataType: "float32", dims: [1, 1, config.vocabSize] });
    const replayed = graph.captures && kv.graphId !== undefined;
    await graph.session.run(
      feeds,
      this.#fetches(kv, logits),
      replayed ? captured(kv.graphId!) : UNCAPTURED,
    );
    const encoder = this.#device.createCommandEncoder();
    this.#ranking.encode(encoder, this.#rankGroup(kv, count), 1);
    const read = this.#reads.copy(encoder, this.#ranked, rankedBytes(1, count));
    this.#device.queue.submit([encoder.finish()]);
    read.begin();
    return { start, read };
  }

  #rankGroup(kv: KvBuffers, count: number): GPUBindGroup {
    const groups = this.#rankGroups.get(kv) ?? new Map<number, GPUBindGroup>();
    this.#rankGroups.set(kv, groups);
    const group = groups.get(count) ?? this.#ranking.bind(count, this.#logits, this.#ranked, kv.nextId);
    groups.set(count, group);
    return group;
  }

  /** Forgets steps that were begun for nothing: what they wrote lies beyond what counts of the cache. */
  async #dropAhead(stream: Stream): Promise<void> {
    const dropped = stream.ahead.splice(0);
    stream.nextId = undefined;
    // Read all the same, or their buffers would be lost.
    for (const { read } of dropped) await read.result();
  }

  /** Any number of tokens up to `PASS_TOKENS`. */
  async #pass(kv: GpuKv, { start, tokenIds, logits, hiddenStates, top }: SessionRow): Promise<RowResult> {
    const { vocabSize, hiddenSize } = this.#format.config;
    const wanted = logitsPositions(logits, tokenIds.length);
    // lm_head over no position would be an operator on nothing.
    const positions = wanted.length > 0 ? wanted : [tokenIds.length - 1];
    const buffers: GPUBuffer[] = [];
    const own = (bytes: number) => {
      const buffer = this.#buffer(bytes);
      buffers.push(buffer);
      return buffer;
    };
    const upload = (values: readonly number[]) => {
      const buffer = own(8 * values.length);
      this.#device.queue.writeBuffer(buffer, 0, BigInt64Array.from(values, BigInt));
      return buffer;
    };
    try {
      const graph = await this.#graphFor(start + tokenIds.length);
      this.#writeLengths(start + tokenIds.length);
      const feeds = this.#feeds(graph, kv.buffers, this.#int64(upload(tokenIds), [1, tokenIds.length]), {
        positions: this.#int64(upload(positions), [positions.length]),
        total: start + tokenIds.length,
      });
      const logitsBytes = 4 * positions.length * vocabSize;
      const logitsBuffer = own(logitsBytes);
      const dims = [1, positions.length, vocabSize];
      const fetches = this.#fetches(
        kv.buffers,
        this.#Tensor.fromGpuBuffer(logitsBuffer, { dataType: "float32", dims }),
      );
      const { half } = this.#format;
      const statesBytes = tokenIds.length * hiddenSize * (half ? 2 : 4);
      const statesBuffer = hiddenStates ? own(statesBytes) : undefined;
      if (statesBuffer) {
        fetches[graph.hiddenStates] = this.#Tensor.fromGpuBuffer(statesBuffer, {
          dataType: half ? "float16" : "float32",
          dims: [1, tokenIds.length, hiddenSize],
        });
      }
      await graph.session.run(feeds, fetches, UNCAPTURED);
      const encoder = this.#device.createCommandEncoder();
      const statesRead = statesBuffer && this.#reads.copy(encoder, statesBuffer, statesBytes);
      let read: PendingRead | undefined;
      if (wanted.length > 0 && top !== undefined) {
        const ranked = own(rankedBytes(wanted.length, top));
        const group = this.#ranking.bind(top, logitsBuffer, ranked, kv.buffers.nextId);
        this.#ranking.encode(encoder, group, wanted.length);
        read = this.#reads.copy(encoder, ranked, rankedBytes(wanted.length, top));
      } else if (wanted.length > 0) {
        read = this.#reads.copy(encoder, logitsBuffer, logitsBytes);
      }
      this.#device.queue.submit([encoder.finish()]);
      const [bytes, states] = await Promise.all([read?.result(), statesRead?.result()]);
      const result: RowResult = { logits: bytes && top === undefined ? new Float32Array(bytes) : new Float32Array() };
      if (top !== undefined) result.top = bytes ? readRanked(bytes, wanted.length, top) : [];
      if (states) result.hiddenStates = half ? Float32Array.from(new Float16Array(states)) : new Float32Array(states);
      return result;
    } finally {
      for (const buffer of buffers) buffer.destroy();
    }
  }

  /**
   * Where runs can be captured, attention of onnxruntime-web 1.30.0 does not know on the CPU how many tokens there are, and
   * leaves no token out that is beyond the window. So a stream that outgrows the window goes on in a second session that
   * cannot capture, with weights of its own, loaded when the first one does.
   */
  async #graphFor(tokens: number): Promise<LoadedGraph> {
    const { captures, window } = this.#graph;
    if (!captures || window === undefined || tokens <= window) return this.#graph;
    this.#beyond ??= this.#loadBeyond();
    try {
      return await this.#beyond;
    } catch (error) {
      this.#beyond = undefined;
      throw error;
    }
  }

  /** In the queue, so that each step finds its own. */
  #writeLengths(total: number): void {
    this.#device.queue.writeBuffer(this.#lastPosition, 0, new Int32Array([total - 1]));
    this.#device.queue.writeBuffer(this.#totalLength, 0, new Int32Array([total]));
  }

  #feeds(
    graph: LoadedGraph,
    kv: KvBuffers,
    ids: ort.Tensor,
    { positions, total }: { positions: ort.Tensor; total: number },
  ): Record<string, ort.Tensor> {
    const int32 = (buffer: GPUBuffer) => this.#Tensor.fromGpuBuffer(buffer, { dataType: "int32", dims: [1] });
    const feeds: Record<string, ort.Tensor> = {
      input_ids: ids,
      [SEQLENS_K]: int32(this.#lastPosition),
      // Without capture the operator reads it on the CPU.
      [TOTAL_LENGTH]: graph.captures
        ? int32(this.#totalLength)
        : new this.#Tensor("int32", new Int32Array([total]), [1]),
      [LOGITS_POSITIONS]: positions,
    };
    this.#kvInputs.forEach((name, i) => feeds[name] = kv.tensors[i]!);
    return feeds;
  }

  #fetches(kv: KvBuffers, logits: ort.Tensor): Record<string, ort.Tensor> {
    const fetches: Record<string, ort.Tensor> = { logits };
    this.#kvOutputs.forEach((name, i) => fetches[name] = kv.tensors[i]!);
    return fetches;
  }

  #int64(buffer: GPUBuffer, dims: number[]): ort.Tensor {
    return this.#Tensor.fromGpuBuffer(buffer, { dataType: "int64", dims });
  }

  #buffer(bytes: number): GPUBuffer {
    return this.#device.createBuffer({
      size: Math.ceil(bytes / 16) * 16,
      usage: Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST,
    });
  }
}

/** The results of a row's passes as one. */
function joined(parts: readonly RowResult[]): RowResult {
  if (parts.length === 1) return parts[0]!;
  const all = (arrays: readonly Float32Array[]) => {
    const whole = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
    let at = 0;
    for (const array of arrays) {
      whole.set(array, at);
      at += array.length;
    }
    return whole;
  };
  const states = parts.flatMap(({ hiddenStates }) => hiddenStates ?? []);
  const top = parts.flatMap((part) => part.top ?? []);
  return {
    logits: all(parts.map(({ logits }) => logits)),
    ...(states.length > 0 && { hiddenStates: all(states) }),
    ...(parts[0]!.top && { top }),
  };
}
