import type * as ort from "onnxruntime-web/jspi";
import { OutOfMemoryError } from "../../errors.ts";
import { gpuKvTokenBytes, type KvFormat } from "./gpu_kv.ts";
import { Usage } from "./gpu_usage.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";

/** onnxruntime keeps each recorded step, with buffers of its own, about a megabyte, for as long as its session. */
const MOST_GRAPHS = 1024;
/** KV memory that no cache has now, kept for its recorded step. */
const MOST_FREE_BYTES = 4 * 2 ** 30;

/** One size of KV memory: a buffer for each layer's keys and values, `[1, num_key_value_heads, capacity, head_dim]`. */
export interface KvBuffers {
  readonly capacity: number;
  readonly buffers: readonly GPUBuffer[];
  /** The same as tensors, past and present at once. */
  readonly tensors: readonly ort.Tensor[];
  /** int64 `[1]`: the id that the next step of decode evaluates. */
  readonly nextId: GPUBuffer;
}

/**
 * Makes KV memory and takes it back. A recorded step belongs to its buffers and cannot be given up, so buffers that have
 * one are kept for the next cache of the same size.
 */
export class KvPool {
  readonly #device: GPUDevice;
  readonly #Tensor: OnnxRuntime["Tensor"];
  readonly #format: KvFormat;
  readonly #free = new Map<number, KvBuffers[]>();
  #freeBytes = 0;
  readonly #graphIds = new WeakMap<KvBuffers, number>();
  #lastGraphId = 0;

  constructor(device: GPUDevice, Tensor: OnnxRuntime["Tensor"], format: KvFormat) {
    this.#device = device;
    this.#Tensor = Tensor;
    this.#format = format;
  }

  /** @throws {OutOfMemoryError} when the GPU has no room */
  async take(capacity: number): Promise<KvBuffers> {
    const known = this.#free.get(capacity)?.pop();
    if (known) {
      this.#freeBytes -= this.bytes(capacity);
      return known;
    }
    return await this.takeNew(capacity);
  }

  /**
   * Buffers that no step was recorded over: for steps that have other inputs than those of caches.
   * @throws {OutOfMemoryError} when the GPU has no room
   */
  async takeNew(capacity: number): Promise<KvBuffers> {
    const made = await this.#make(capacity);
    if (made) return made;
    // What is kept of other sizes is worth less than what is needed now.
    this.#destroyFree();
    const again = await this.#make(capacity);
    if (again) return again;
    const mib = Math.round(this.bytes(capacity) / 2 ** 20);
    throw new OutOfMemoryError(`Cannot hold KV for ${capacity} tokens: ${mib} MiB do not fit the GPU's memory`);
  }

  give(kv: KvBuffers): void {
    const bytes = this.bytes(kv.capacity);
    if (!this.#graphIds.has(kv) || this.#freeBytes + bytes > MOST_FREE_BYTES) return destroy(kv);
    this.#freeBytes += bytes;
    const free = this.#free.get(kv.capacity);
    if (free) free.push(kv);
    else this.#free.set(kv.capacity, [kv]);
  }

  /** Names the recorded step over these buffers; `undefined` once there are too many. */
  graphId(kv: KvBuffers): number | undefined {
    const known = this.#graphIds.get(kv);
    if (known !== undefined || this.#lastGraphId >= MOST_GRAPHS) return known;
    this.#graphIds.set(kv, ++this.#lastGraphId);
    return this.#lastGraphId;
  }

  /** Bytes of all keys and values at a capacity. */
  bytes(capacity: number): number {
    return capacity * gpuKvTokenBytes(this.#format);
  }

  /** @returns nothing when the GPU has no room */
  async #make(capacity: number): Promise<KvBuffers | undefined> {
    const { half, config: { numHiddenLayers, numKeyValueHeads, headDim } } = this.#format;
    const count = 2 * numHiddenLayers;
    const size = this.bytes(capacity) / count;
    const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
    this.#device.pushErrorScope("out-of-memory");
    const buffers = Array.from({ length: count }, () => this.#device.createBuffer({ size, usage }));
    const nextId = this.#device.createBuffer({ size: 8, usage });
    const dims = [1, numKeyValueHeads, capacity, headDim];
    const dataType = half ? "float16" : "float32";
    const tensors = buffers.map((buffer) => this.#Tensor.fromGpuBuffer(buffer, { dataType, dims }));
    const kv = { capacity, buffers, tensors, nextId };
    if (!await this.#device.popErrorScope()) return kv;
    destroy(kv);
  }

  #destroyFree(): void {
    for (const kv of [...this.#free.values()].flat()) destroy(kv);
    this.#free.clear();
    this.#freeBytes = 0;
  }
}

function destroy({ buffers, nextId }: KvBuffers): void {
  for (const buffer of [...buffers, nextId]) buffer.destroy();
}
