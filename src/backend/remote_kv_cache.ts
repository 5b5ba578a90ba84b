import { BackendUnavailableError } from "../errors.ts";
import type { KvCache } from "../kv/kv_cache.ts";
import type { BackendInfo } from "./backend.ts";
import type { InferenceThread } from "./inference_thread.ts";

/** What a handle asks of the backend that made it. */
export interface RemoteKvOwner {
  /** Blocks that can be shared can be given back one by one, too: a pass does so with those that were truncated. */
  readonly info: Pick<BackendInfo, "kvShares">;
  /** Bytes that a cache of so many tokens reserves. */
  kvBytes(tokens: number): number;
  /** An empty cache with an id of its own. */
  createKvCache(): RemoteKvCache;
}

/** This side's handle of a cache whose memory is the inference thread's. */
export class RemoteKvCache implements KvCache {
  /** Where its memory is, from its first pass on. */
  #thread: InferenceThread | undefined;
  readonly #owner: RemoteKvOwner;
  #length = 0;
  /** Tokens that its memory is for: truncating gives none of it back, the next pass does where there are blocks. */
  #peak = 0;
  #disposed = false;

  constructor(readonly id: number, owner: RemoteKvOwner) {
    this.#owner = owner;
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#disposed || this.lost ? 0 : this.#owner.kvBytes(this.#peak);
  }

  get lost(): boolean {
    return this.#thread?.failure !== undefined;
  }

  truncate(length: number): void {
    this.#check("truncate to", length);
    this.#length = length;
  }

  fork(length: number = this.#length): RemoteKvCache {
    this.#check("fork", length);
    const fork = this.#owner.createKvCache();
    if (length > 0) {
      this.#thread!.fork(this.id, fork.id, length);
      fork.attach(this.#thread!);
      fork.append(length);
    }
    return fork;
  }

  #check(action: string, length: number): void {
    this.assertUsable();
    if (Number.isInteger(length) && length >= 0 && length <= this.#length) return;
    throw new RangeError(`Cannot ${action} ${length} tokens: the cache holds ${this.#length}`);
  }

  /** Says which thread is about to hold it. */
  attach(thread: InferenceThread): void {
    this.#thread ??= thread;
  }

  /** Counts the tokens that a pass has appended. */
  append(tokens: number): void {
    this.#length += tokens;
    this.#peak = this.#owner.info.kvShares ? this.#length : Math.max(this.#peak, this.#length);
  }

  /**
   * @throws {TypeError} after `dispose`
   * @throws {BackendUnavailableError} when its memory went with its thread
   */
  assertUsable(): void {
    if (this.#disposed) throw new TypeError("Cannot use a KV cache that was disposed");
    if (!this.lost) return;
    throw new BackendUnavailableError(
      `Cannot use a KV cache that was lost: ${this.#thread!.failure!.message}; start again from the tokens`,
    );
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#length = 0;
    this.#thread?.free(this.id);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
