import type { KvCache } from "../kv/kv_cache.ts";

/** What a {@linkcode RemoteKvCache} asks of its backend. */
export interface KvOwner {
  /** Bytes that a cache of so many tokens reserves. */
  kvBytes(tokens: number): number;
  free(cacheId: number): void;
}

/** This side's handle of a cache whose memory is the inference thread's. */
export class RemoteKvCache implements KvCache {
  #length = 0;
  /** The most tokens it ever held: truncating gives no memory back. */
  #peak = 0;
  #disposed = false;

  constructor(readonly id: number, readonly owner: KvOwner) {}

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#disposed ? 0 : this.owner.kvBytes(this.#peak);
  }

  truncate(length: number): void {
    this.assertUsable();
    if (!Number.isInteger(length) || length < 0 || length > this.#length) {
      throw new RangeError(`Cannot truncate to ${length} tokens: the cache holds ${this.#length}`);
    }
    this.#length = length;
  }

  /** Counts the tokens that a pass has appended. */
  append(tokens: number): void {
    this.#length += tokens;
    this.#peak = Math.max(this.#peak, this.#length);
  }

  /** @throws {TypeError} after `dispose` */
  assertUsable(): void {
    if (this.#disposed) throw new TypeError("Cannot use a KV cache that was disposed");
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#length = 0;
    this.owner.free(this.id);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
