import type { ModelConfig } from "../../model/model_config.ts";
import type { BackendStats, RowResult } from "../backend.ts";
import { checkKvBytes, logitsPositions, type ModelSession, type SessionRow, type WholeKv } from "../model_session.ts";
import { DecodeSteps, DecodeStream } from "./decode_steps.ts";
import { GpuKv, gpuKvTokenBytes, type KvFormat } from "./gpu_kv.ts";
import { Usage } from "./gpu_usage.ts";
import { GraphRunner } from "./graph_runner.ts";
import { KvPool } from "./kv_pool.ts";
import type { LoadedGraph } from "./loaded_graph.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";
import { PASS_TOKENS } from "./pass_tokens.ts";
import { rankedBytes, Ranking, readRanked } from "./ranking.ts";
import { type PendingRead, ReadBack } from "./read_back.ts";
import { WindowRing } from "./window_ring.ts";

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
  /** Steps of decode that may be on their way beside the one that is asked for. */
  ahead: number;
  /** Read results by what Deno does not document. */
  unsafeRead: boolean;
}

/** onnxruntime-web's WebGPU with a model in it. All inputs and outputs of a pass are GPU buffers. */
export class GpuSession implements ModelSession {
  readonly heapBytes = 0;
  readonly rowsPerPass = 1;
  readonly kv: WholeKv = {
    export: (cacheId, length) => this.#export(cacheId, length),
    import: (cacheId, length, bytes) => this.#import(cacheId, length, bytes),
  };
  readonly detail: string;
  readonly device: string;
  /** Whether it was closed: its device is then lost on purpose. */
  closed = false;
  readonly #device: GPUDevice;
  readonly #format: KvFormat;
  readonly #pool: KvPool;
  readonly #runner: GraphRunner;
  readonly #ranking: Ranking;
  readonly #reads: ReadBack;
  readonly #steps: DecodeSteps;
  readonly #streams = new Map<number, DecodeStream>();

  /** @param load called again, for a graph that cannot capture, when a stream outgrows the window of attention */
  static async create(
    load: (captures: boolean) => Promise<LoadedGraph>,
    options: GpuSessionOptions,
  ): Promise<GpuSession> {
    return new GpuSession(await load(options.capture), () => load(false), options);
  }

  private constructor(graph: LoadedGraph, loadBeyond: () => Promise<LoadedGraph>, options: GpuSessionOptions) {
    const { ort: { Tensor }, device, deviceName, config, half, ahead, unsafeRead } = options;
    const format = { config, half };
    const { vocabSize } = config;
    const steps = `steps of decode ${graph.captures ? "recorded and replayed" : "not recorded"}`;
    this.detail = `KV as ${half ? "f16" : "f32"} in the GPU's memory, ${steps}${
      unsafeRead ? ", reads by what is not documented" : ""
    }`;
    this.device = deviceName;
    this.#device = device;
    this.#format = format;
    const pool = this.#pool = new KvPool(device, Tensor, format);
    const runner = this.#runner = new GraphRunner({ Tensor, device, format, pool, graph, loadBeyond });
    const ranking = this.#ranking = new Ranking(device, vocabSize);
    const reads = this.#reads = new ReadBack(device, unsafeRead);
    const { captures, rotary, window } = graph;
    const ring = captures && window !== undefined
      ? new WindowRing({ device, format, pool, runner, rotary, window })
      : undefined;
    this.#steps = new DecodeSteps({ device, vocabSize, runner, ring, ranking, reads, most: ahead });
  }

  async run(rows: readonly SessionRow[]): Promise<RowResult[]> {
    try {
      return await this.#run(rows);
    } catch (error) {
      // Of a lost GPU a pass hears first, as some error. The thread is about to end then, and that is what is told.
      const lost = this.#device.lost.then(() => new Promise<never>(() => {}));
      await Promise.race([lost, new Promise((resolve) => setTimeout(resolve, LOST_MS))]);
      throw error;
    }
  }

  async #run([row]: readonly SessionRow[]): Promise<RowResult[]> {
    const { cacheId, start, tokenIds, logits, hiddenStates } = row!;
    const top = row!.top && Math.min(row!.top, this.#format.config.vocabSize);
    const stream = this.#stream(cacheId);
    try {
      const step = tokenIds.length === 1 && logits === "last" && !hiddenStates;
      if (step) return [await this.#steps.next(stream, { ...row!, top })];
      await stream.dropAhead();
      stream.ringEnd = undefined;
      await stream.kv.reserve(start + tokenIds.length, start);
      const parts: RowResult[] = [];
      for (let from = 0; from < tokenIds.length; from += PASS_TOKENS) {
        const ids = tokenIds.slice(from, from + PASS_TOKENS);
        const last = from + ids.length === tokenIds.length;
        const wanted = logits === "last" && !last ? "none" : logits;
        parts.push(await this.#pass(stream.kv, { ...row!, start: start + from, tokenIds: ids, logits: wanted, top }));
      }
      return [joined(parts)];
    } finally {
      if (cacheId === undefined) stream.kv.free();
    }
  }

  freeCache(cacheId: number): void {
    const stream = this.#streams.get(cacheId);
    stream?.dropAhead().catch(() => {});
    stream?.kv.free();
    this.#streams.delete(cacheId);
  }

  async forkCache(cacheId: number, toId: number, length: number): Promise<void> {
    this.#streams.set(toId, new DecodeStream(await this.#stream(cacheId).kv.fork(length)));
  }

  async #export(cacheId: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    return await this.#stream(cacheId).kv.export(length, this.#reads);
  }

  async #import(cacheId: number, length: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    checkKvBytes(bytes.length, length, length * gpuKvTokenBytes(this.#format));
    await this.#stream(cacheId).kv.import(length, bytes);
  }

  stats(): BackendStats {
    const streams = [...this.#streams.values()];
    return { kvBlocks: streams.length, kvBytes: streams.reduce((sum, { kv }) => sum + kv.bytes, 0) };
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.#runner.close();
    this.#device.destroy();
  }

  #stream(cacheId: number | undefined): DecodeStream {
    const known = cacheId === undefined ? undefined : this.#streams.get(cacheId);
    if (known) return known;
    const stream = new DecodeStream(new GpuKv(this.#device, this.#format, this.#pool));
    if (cacheId !== undefined) this.#streams.set(cacheId, stream);
    return stream;
  }

  /** Any number of tokens up to `PASS_TOKENS`. Waits for the GPU only where something is wanted of it. */
  async #pass(kv: GpuKv, { start, tokenIds, logits, hiddenStates, top }: SessionRow): Promise<RowResult> {
    const { half, config: { vocabSize, hiddenSize } } = this.#format;
    const wanted = logitsPositions(logits, tokenIds.length);
    // lm_head over no position would be an operator on nothing.
    const positions = wanted.length > 0 ? wanted : [tokenIds.length - 1];
    const buffers: GPUBuffer[] = [];
    const own = (bytes: number) => {
      const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
      const buffer = this.#device.createBuffer({ size: Math.ceil(bytes / 16) * 16, usage });
      buffers.push(buffer);
      return buffer;
    };
    const upload = (values: readonly number[]) => {
      const buffer = own(8 * values.length);
      this.#device.queue.writeBuffer(buffer, 0, BigInt64Array.from(values, BigInt));
      return buffer;
    };
    try {
      const logitsBytes = 4 * positions.length * vocabSize;
      const statesBytes = tokenIds.length * hiddenSize * (half ? 2 : 4);
      const logitsBuffer = own(logitsBytes);
      const statesBuffer = hiddenStates ? own(statesBytes) : undefined;
      const encoder = await this.#runner.run({
        kv: kv.buffers,
        start,
        ids: upload(tokenIds),
        tokens: tokenIds.length,
        positions: { buffer: upload(positions), count: positions.length },
        logits: logitsBuffer,
        hiddenStates: statesBuffer,
      });
      const statesRead = statesBuffer && this.#reads.copy(encoder, { source: statesBuffer, bytes: statesBytes });
      let read: PendingRead | undefined;
      if (wanted.length > 0 && top !== undefined) {
        const ranked = own(rankedBytes(wanted.length, top));
        const group = this.#ranking.bind(top, logitsBuffer, ranked, kv.buffers.nextId);
        this.#ranking.encode(encoder, group, wanted.length);
        read = this.#reads.copy(encoder, { source: ranked, bytes: rankedBytes(wanted.length, top) });
      } else if (wanted.length > 0) {
        read = this.#reads.copy(encoder, { source: logitsBuffer, bytes: logitsBytes });
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
