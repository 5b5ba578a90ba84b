import type * as ort from "onnxruntime-web/jspi";
import { OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { Usage } from "./gpu_usage.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";
import type { ReadBack } from "./read_back.ts";

/** Tokens that a cache begins with. */
const FIRST = 128;
/** What an export copies at a time, at most. */
const EXPORT_BYTES = 256 * 2 ** 20;

/** How keys and values are kept. */
export interface KvFormat {
  config: ModelConfig;
  /** f16, else f32. */
  half: boolean;
}

/**
 * Tokens that a cache of `tokens` tokens has room for: 128, 256, 512, ... up to the context. A step of decode is captured
 * for each set of buffers, so few sizes.
 */
export function gpuKvCapacity(tokens: number, contextLength: number): number {
  if (tokens <= 0) return 0;
  let capacity = FIRST;
  while (capacity < tokens) capacity *= 2;
  return Math.min(capacity, Math.max(contextLength, tokens));
}

/** Bytes of one token's keys and values. */
export function gpuKvTokenBytes({ config, half }: KvFormat): number {
  return 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim * (half ? 2 : 4);
}

/** One size of KV memory: a buffer for each layer's keys and values, `[1, num_key_value_heads, capacity, head_dim]`. */
export interface KvBuffers {
  capacity: number;
  buffers: GPUBuffer[];
  /** The same as tensors, past and present at once. */
  tensors: ort.Tensor[];
  /** int64 `[1]`: the id that the next step of decode evaluates. */
  nextId: GPUBuffer;
  /** Names the captured step over these buffers; `undefined` where steps are not captured. */
  graphId: number | undefined;
}

/**
 * Makes KV memory and takes it back. A captured step cannot be given up, so buffers that have one are kept for the next
 * cache of the same size, as far as that is not too much.
 */
export class KvPool {
  readonly #device: GPUDevice;
  readonly #Tensor: OnnxRuntime["Tensor"];
  readonly #format: KvFormat;
  readonly #captures: boolean;
  readonly #free = new Map<number, KvBuffers[]>();
  #freeBytes = 0;
  #lastGraphId = 0;

  /** @param captures whether steps of decode are captured */
  constructor(device: GPUDevice, Tensor: OnnxRuntime["Tensor"], format: KvFormat, captures: boolean) {
    this.#device = device;
    this.#Tensor = Tensor;
    this.#format = format;
    this.#captures = captures;
  }

  /** @throws {OutOfMemoryError} when the GPU has no room */
  async take(capacity: number): Promise<KvBuffers> {
    const known = this.#free.get(capacity)?.pop();
    if (known) {
      this.#freeBytes -= this.bytes(capacity);
      return known;
    }
    const { numHiddenLayers, numKeyValueHeads, headDim } = this.#format.config;
    const count = 2 * numHiddenLayers;
    const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
    this.#device.pushErrorScope("out-of-memory");
    const buffers = Array.from(
      { length: count },
      () => this.#device.createBuffer({ size: this.bytes(capacity) / count, usage }),
    );
    const nextId = this.#device.createBuffer({ size: 8, usage });
    if (await this.#device.popErrorScope()) {
      for (const buffer of [...buffers, nextId]) buffer.destroy();
      const mib = Math.round(this.bytes(capacity) / 2 ** 20);
      throw new OutOfMemoryError(`Cannot hold KV for ${capacity} tokens: ${mib} MiB do not fit the GPU's memory`);
    }
    const dims = [1, numKeyValueHeads, capacity, headDim];
    const dataType = this.#format.half ? "float16" : "float32";
    const tensors = buffers.map((buffer) => this.#Tensor.fromGpuBuffer(buffer, { dataType, dims }));
    const graphId = this.#captures && this.#lastGraphId < MOST_GRAPHS ? ++this.#lastGraphId : undefined;
    return { capacity, buffers, tensors, nextId, graphId };
  }

  give(kv: KvBuffers): void {
    const bytes = this.bytes(kv.capacity);
    if (kv.graphId === undefined || this.#freeBytes + bytes > MOST_FREE_BYTES) {
      for (const buffer of [...kv.buffers, kv.nextId]) buffer.destroy();
      return;
    }
    this.#freeBytes += bytes;
    const free = this.#free.get(kv.capacity);
    if (free) free.push(kv);
    else this.#free.set(kv.capacity, [kv]);
  }

  /** Bytes of all keys and values at a capacity. */
  bytes(capacity: number): number {
    return capacity * gpuKvTokenBytes(this.#format);
  }
}

/** onnxruntime keeps each captured step, with buffers of its own, for as long as its session: no more than these. */
const MOST_GRAPHS = 256;
/** KV memory that no cache has now, kept for its captured step. */
const MOST_FREE_BYTES = 2 ** 30;

/** One sequence's KV cache. */
export class GpuKv {
  readonly #device: GPUDevice;
  readonly #format: KvFormat;
  readonly #pool: KvPool;
  #buffers: KvBuffers | undefined;

  constructor(device: GPUDevice, format: KvFormat, pool: KvPool) {
    this.#device = device;
    this.#format = format;
    this.#pool = pool;
  }

  /** There once tokens were reserved. */
  get buffers(): KvBuffers {
    if (this.#buffers) return this.#buffers;
    throw new TypeError("Cannot use a KV cache without tokens: wanted room reserved first");
  }

  get capacity(): number {
    return this.#buffers?.capacity ?? 0;
  }

  get bytes(): number {
    return this.#pool.bytes(this.capacity);
  }

  /**
   * Makes room for `tokens` tokens, keeping the first `held`.
   * @throws {OutOfMemoryError} when the GPU has no room; what was held is still there
   */
  async reserve(tokens: number, held: number): Promise<void> {
    if (tokens <= this.capacity) return;
    const grown = await this.#pool.take(gpuKvCapacity(tokens, this.#format.config.contextLength));
    if (this.#buffers) {
      if (held > 0) this.#copyTo(grown, held);
      this.#pool.give(this.#buffers);
    }
    this.#buffers = grown;
  }

  /** A second cache of the first `tokens` tokens. */
  async fork(tokens: number): Promise<GpuKv> {
    const fork = new GpuKv(this.#device, this.#format, this.#pool);
    await fork.reserve(tokens, 0);
    this.#copyTo(fork.buffers, tokens);
    return fork;
  }

  /** Copies the first `tokens` tokens out: `[2 * layers, num_key_value_heads, tokens, head_dim]`, f16 or f32. */
  async export(tokens: number, reads: ReadBack): Promise<Uint8Array<ArrayBuffer>> {
    const { capacity, buffers } = this.buffers;
    const bytes = new Uint8Array(tokens * gpuKvTokenBytes(this.#format));
    const size = bytes.length / buffers.length;
    const atOnce = Math.max(1, Math.floor(EXPORT_BYTES / size));
    for (let from = 0; from < buffers.length; from += atOnce) {
      const part = buffers.slice(from, from + atOnce);
      const packed = this.#device.createBuffer({
        size: part.length * size,
        usage: Usage.COPY_SRC | Usage.COPY_DST,
      });
      const encoder = this.#device.createCommandEncoder();
      part.forEach((buffer, i) =>
        this.#eachHead(
          tokens,
          (head, length) =>
            encoder.copyBufferToBuffer(
              buffer,
              head * length / tokens * capacity,
              packed,
              i * size + head * length,
              length,
            ),
        )
      );
      const read = reads.copy(encoder, packed, packed.size);
      this.#device.queue.submit([encoder.finish()]);
      bytes.set(new Uint8Array(await read.result()), from * size);
      packed.destroy();
    }
    return bytes;
  }

  /**
   * Copies in what `export` gave.
   * @throws {OutOfMemoryError} when the GPU has no room
   */
  async import(tokens: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.reserve(tokens, 0);
    const { capacity, buffers } = this.buffers;
    const size = bytes.length / buffers.length;
    buffers.forEach((buffer, i) =>
      this.#eachHead(tokens, (head, length) =>
        this.#device.queue.writeBuffer(
          buffer,
          head * length / tokens * capacity,
          bytes,
          i * size + head * length,
          length,
        ))
    );
  }

  /** Gives the memory back. Idempotent. */
  free(): void {
    if (this.#buffers) this.#pool.give(this.#buffers);
    this.#buffers = undefined;
  }

  /** Heads lie `capacity` tokens apart, so each moves on its own. */
  #copyTo(to: KvBuffers, tokens: number): void {
    const from = this.buffers;
    const encoder = this.#device.createCommandEncoder();
    from.buffers.forEach((buffer, i) =>
      this.#eachHead(tokens, (head, length) => {
        const stride = length / tokens;
        encoder.copyBufferToBuffer(
          buffer,
          head * stride * from.capacity,
          to.buffers[i]!,
          head * stride * to.capacity,
          length,
        );
      })
    );
    this.#device.queue.submit([encoder.finish()]);
  }

  /** Visits each head with the bytes that so many of its tokens take. */
  #eachHead(tokens: number, visit: (head: number, length: number) => void): void {
    const { config: { numKeyValueHeads, headDim }, half } = this.#format;
    for (let head = 0; head < numKeyValueHeads; head++) visit(head, tokens * headDim * (half ? 2 : 4));
  }
}
