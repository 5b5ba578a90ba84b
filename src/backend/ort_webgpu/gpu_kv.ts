import type { ModelConfig } from "../../model/model_config.ts";
import { Usage } from "./gpu_usage.ts";
import type { KvBuffers, KvPool } from "./kv_pool.ts";
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
      const read = reads.copy(encoder, { source: packed, bytes: packed.size });
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
