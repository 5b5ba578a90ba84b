import { setImmediate } from "node:timers/promises";
import type {
  Backend,
  BackendInfo,
  BackendStats,
  Follow,
  Followed,
  ForwardRow,
  RowResult,
  TopLogits,
} from "../../src/backend/backend.ts";
import { BackendUnavailableError, OutOfMemoryError } from "../../src/errors.ts";
import type { KvCache } from "../../src/kv/kv_cache.ts";
import { type KvParts, slices } from "../../src/kv/kv_parts.ts";
import { logSumExp } from "../../src/sampling/softmax.ts";
import { collect } from "../kv/collect.ts";

/** Bytes that {@linkcode FakeBackend} counts for a token. */
export const FAKE_BYTES_PER_TOKEN = 10;
/** Bytes of a part of exported KV: no multiple of a token's. */
const FAKE_PART_BYTES = 64;

class FakeKvCache implements KvCache {
  readonly ids: number[] = [];
  disposed = false;
  lost = false;
  constructor(readonly owner: FakeBackend) {}
  get length() {
    return this.ids.length;
  }
  get bytes() {
    return this.disposed || this.lost ? 0 : this.owner.kvBytes(this.ids.length);
  }
  truncate(length: number) {
    if (!(length >= 0 && length <= this.ids.length)) throw new RangeError(`Cannot truncate to ${length}`);
    this.ids.length = length;
  }
  fork(length = this.ids.length) {
    if (!(length >= 0 && length <= this.ids.length)) throw new RangeError(`Cannot fork at ${length}`);
    return this.owner.adopt(this.ids.slice(0, length));
  }
  dispose() {
    this.disposed = true;
    this.owner.caches.delete(this);
  }
  [Symbol.dispose]() {
    this.dispose();
  }
}

/** Options of {@linkcode FakeBackend}. */
export interface FakeBackendOptions {
  vocabSize: number;
  /** Next token after `ids`. @default a hash of all of them, so that one wrong cached token changes everything */
  next?: (ids: readonly number[]) => number;
  /** Milliseconds that a pass takes. @default 0 */
  delayMs?: number;
}

/** A model without weights: the next token is a function of all tokens before it. Counts what it is asked. */
export class FakeBackend implements Backend {
  readonly info: BackendInfo = {
    name: "ort-wasm",
    threads: 1,
    variant: "fake",
    rowInvariant: true,
    kvShares: false,
    inspects: false,
    reason: "a test",
    detail: "no weights",
  };
  failure: Error | undefined;
  readonly caches = new Set<FakeKvCache>();
  /** Rows evaluated, in order: what the engine really did. */
  readonly passes: { tokens: number; start: number }[] = [];
  /** Set to make the next pass fail. */
  failNext: Error | undefined;
  /** Passes that find no memory, the next ones. */
  refuseNext = 0;
  delayMs: number;
  /** Steps at most that it takes of those which may follow a row. */
  follows = 0;
  disposed = false;

  constructor(readonly options: FakeBackendOptions) {
    this.delayMs = options.delayMs ?? 0;
  }

  createKvCache(): KvCache {
    return this.adopt([]);
  }

  /** A cache that holds these tokens. */
  adopt(ids: readonly number[]): FakeKvCache {
    const cache = new FakeKvCache(this);
    cache.ids.push(...ids);
    this.caches.add(cache);
    return cache;
  }

  async *exportKv(cache: KvCache): AsyncIterable<Uint8Array> {
    const { ids, disposed, lost } = cache as FakeKvCache;
    if (disposed) throw new TypeError("Cannot use a disposed cache");
    if (lost) throw new BackendUnavailableError("Cannot use a lost cache");
    const held = [...ids];
    await this.#work();
    const bytes = new Uint8Array(this.kvBytes(held.length));
    const view = new DataView(bytes.buffer);
    held.forEach((id, i) => view.setInt32(i * FAKE_BYTES_PER_TOKEN, id, true));
    yield* slices(bytes, FAKE_PART_BYTES);
  }

  async importKv(parts: KvParts, tokens: number): Promise<KvCache> {
    await this.#work();
    const bytes = await collect(parts);
    if (bytes.length !== this.kvBytes(tokens)) {
      throw new RangeError(`Cannot import KV: ${bytes.length} bytes for ${tokens} tokens`);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    return this.adopt(Array.from({ length: tokens }, (_, i) => view.getInt32(i * FAKE_BYTES_PER_TOKEN, true)));
  }

  kvBytes(tokens: number): number {
    return tokens * FAKE_BYTES_PER_TOKEN;
  }

  async stats(): Promise<BackendStats> {
    const tokens = [...this.caches].reduce((sum, { length }) => sum + length, 0);
    return { kvBlocks: this.caches.size, kvBytes: this.kvBytes(tokens) };
  }

  async forward(rows: readonly ForwardRow[]): Promise<RowResult[]> {
    await this.#work();
    if (this.refuseNext > 0) {
      this.refuseNext--;
      throw new OutOfMemoryError("Cannot run a pass: there is no memory");
    }
    for (const { cache } of rows) {
      if (cache && (cache as FakeKvCache).disposed) throw new TypeError("Cannot use a disposed cache");
      if (cache?.lost) throw new BackendUnavailableError("Cannot use a lost cache");
    }
    const failure = this.failNext;
    this.failNext = undefined;
    return rows.map(({ cache, tokenIds, logits = "last", follow }) => {
      const ids = cache ? (cache as FakeKvCache).ids : [];
      this.passes.push({ tokens: tokenIds.length, start: ids.length });
      const before = ids.length;
      ids.push(...Array.from(tokenIds));
      // A failure after the cache grew: the caller has to cope with tokens it never counted.
      if (failure) throw failure;
      const [from, to] = [logits === "all" ? before + 1 : ids.length, logits === "none" ? 0 : ids.length];
      const rows = Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => this.next(ids.slice(0, from + i)));
      if (!cache || !follow) return { logits: this.#oneHots(rows) };
      const top = this.#top(rows.at(-1)!);
      return { logits: new Float32Array(), top: [top], followed: this.#follow(ids, top, follow) };
    });
  }

  #follow(ids: number[], { ids: [best] }: TopLogits, { steps, stopIds }: Follow): Followed[] {
    const followed: Followed[] = [];
    for (let id = best!; followed.length < Math.min(steps, this.follows) && !stopIds.includes(id);) {
      this.passes.push({ tokens: 1, start: ids.length });
      ids.push(id);
      const top = this.#top(this.next(ids));
      followed.push({ id, top });
      id = top.ids[0]!;
    }
    return followed;
  }

  #top(id: number): TopLogits {
    return { ids: Int32Array.of(id), logits: Float32Array.of(10), logSumExp: logSumExp(this.#oneHots([id])) };
  }

  #work(): Promise<void> {
    return this.delayMs > 0 ? new Promise((resolve) => setTimeout(resolve, this.delayMs)) : setImmediate();
  }

  /** The token that greedy decoding gives after `ids`. */
  next(ids: readonly number[]): number {
    if (this.options.next) return this.options.next(ids);
    let hash = 2166136261;
    for (const id of ids) hash = Math.imul(hash ^ id, 16777619) >>> 0;
    return hash % this.options.vocabSize;
  }

  #oneHots(ids: readonly number[]): Float32Array {
    const { vocabSize } = this.options;
    const logits = new Float32Array(ids.length * vocabSize).fill(-10);
    ids.forEach((id, row) => logits[row * vocabSize + id] = 10);
    return logits;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.disposed = true;
  }
}
