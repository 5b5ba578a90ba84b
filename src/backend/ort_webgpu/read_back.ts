import { MAP_MODE_READ, Usage } from "./gpu_usage.ts";
import { readNow } from "./unsafe_read.ts";

/** Buffers up to this size are kept for the next copy: those of single steps, of all logits at most. */
const KEPT_BYTES = 2 ** 20;

/** A copy of GPU memory on its way to this side, to be asked for once its copy was submitted. */
export interface PendingRead {
  /** Lets the runtime begin to look for its end. */
  begin(): void;
  /** Once. */
  result(): Promise<ArrayBuffer>;
}

/** Copies GPU memory to this side. */
export class ReadBack {
  readonly #device: GPUDevice;
  readonly #unsafe: boolean;
  readonly #free = new Map<number, GPUBuffer[]>();
  /** Mapped once by the documented way, which `readNow` needs. */
  readonly #mapped = new WeakSet<GPUBuffer>();

  /** @param unsafe read by `unsafe_read.ts` */
  constructor(device: GPUDevice, unsafe: boolean) {
    this.#device = device;
    this.#unsafe = unsafe;
  }

  /** Encodes a copy of the first bytes of buffers, a multiple of 4 of each: one after the other they come back. */
  copy(encoder: GPUCommandEncoder, ...parts: readonly { source: GPUBuffer; bytes: number }[]): PendingRead {
    const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
    const staging = this.#free.get(bytes)?.pop() ??
      this.#device.createBuffer({ size: bytes, usage: Usage.MAP_READ | Usage.COPY_DST });
    let at = 0;
    for (const { source, bytes } of parts) {
      encoder.copyBufferToBuffer(source, 0, staging, at, bytes);
      at += bytes;
    }
    let mapped: Promise<void> | undefined;
    let atOnce = false;
    const begin = () => {
      if (atOnce) return;
      mapped ??= staging.mapAsync(MAP_MODE_READ);
      // Who asks for the result hears of a failure.
      mapped.catch(() => {});
    };
    const result = async () => {
      // What was begun has something to wait beside: the steps after it.
      atOnce = this.#unsafe && !mapped && this.#mapped.has(staging);
      begin();
      await mapped;
      const contents = mapped ? staging.getMappedRange().slice(0) : readNow(staging);
      staging.unmap();
      this.#mapped.add(staging);
      this.#release(staging);
      return contents;
    };
    return { begin, result };
  }

  #release(staging: GPUBuffer): void {
    if (staging.size > KEPT_BYTES) return staging.destroy();
    const free = this.#free.get(staging.size);
    if (free) free.push(staging);
    else this.#free.set(staging.size, [staging]);
  }
}
