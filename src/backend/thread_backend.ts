import type { KvCache } from "../kv/kv_cache.ts";
import type { ModelConfig } from "../model/model_config.ts";
import type { Backend, BackendInfo, ForwardOptions, ForwardRow, RowResult } from "./backend.ts";
import type { InferenceThread } from "./inference_thread.ts";
import type { SessionRow } from "./model_session.ts";
import { RemoteKvCache } from "./remote_kv_cache.ts";

/** A backend whose model lives in an inference thread: checks what comes in, and queues passes in order of arrival. */
export class ThreadBackend implements Backend {
  #lastCacheId = 0;
  /** Settles when the pass in flight and all that wait for it are done. */
  #tail: Promise<unknown> = Promise.resolve();

  /**
   * @param kvBytes bytes that a cache of so many tokens reserves in the thread
   * @param rowsPerPass rows that the thread's session takes at once
   */
  constructor(
    readonly thread: InferenceThread,
    readonly config: ModelConfig,
    readonly info: BackendInfo,
    readonly kvBytes: (tokens: number) => number,
    readonly rowsPerPass: number,
  ) {}

  get failure(): Error | undefined {
    return this.thread.failure;
  }

  createKvCache(): KvCache {
    return new RemoteKvCache(++this.#lastCacheId, {
      kvBytes: this.kvBytes,
      free: (id) => this.thread.free(id),
    });
  }

  async forward(rows: readonly ForwardRow[], { signal }: ForwardOptions = {}): Promise<RowResult[]> {
    for (const row of rows) this.#check(row);
    const caches = rows.flatMap(({ cache }) => cache ?? []);
    if (new Set(caches).size < caches.length) {
      throw new RangeError("Cannot run a pass: two rows have the same KV cache, wanted one row a sequence");
    }
    const results = this.#tail.then(() => this.#runAll(rows, signal));
    this.#tail = results.catch(() => {});
    return await results;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.thread.close();
  }

  async #runAll(rows: readonly ForwardRow[], signal: AbortSignal | undefined): Promise<RowResult[]> {
    const results: RowResult[] = [];
    for (let from = 0; from < rows.length; from += this.rowsPerPass) {
      signal?.throwIfAborted();
      results.push(...await this.#run(rows.slice(from, from + this.rowsPerPass)));
    }
    return results;
  }

  async #run(rows: readonly ForwardRow[]): Promise<RowResult[]> {
    const sessionRows = rows.map(({ cache, tokenIds, logits = "last", hiddenStates = false }): SessionRow => {
      const kv = cache as RemoteKvCache | undefined;
      // Checked when the call came in, but an earlier pass of the queue may have disposed or filled the cache.
      kv?.assertUsable();
      this.#checkContext(kv, tokenIds.length);
      return { cacheId: kv?.id, start: kv?.length ?? 0, tokenIds: Array.from(tokenIds), logits, hiddenStates };
    });
    const results = await this.thread.run(sessionRows);
    for (const { cache, tokenIds } of rows) (cache as RemoteKvCache | undefined)?.append(tokenIds.length);
    return results;
  }

  #check({ cache, tokenIds }: ForwardRow): void {
    if (cache !== undefined && !(cache instanceof RemoteKvCache)) {
      throw new TypeError("Cannot run a pass: the KV cache is another backend's");
    }
    if (tokenIds.length === 0) throw new RangeError("Cannot run a pass: a row has no tokens, wanted at least one");
    const { vocabSize } = this.config;
    for (const id of Array.from(tokenIds)) {
      if (!(Number.isInteger(id) && id >= 0 && id < vocabSize)) {
        throw new RangeError(`Cannot run a pass: token id ${id}, wanted 0 to ${vocabSize - 1}`);
      }
    }
    cache?.assertUsable();
    this.#checkContext(cache, tokenIds.length);
  }

  #checkContext(cache: RemoteKvCache | undefined, tokens: number): void {
    const total = (cache?.length ?? 0) + tokens;
    if (total <= this.config.contextLength) return;
    throw new RangeError(`Cannot run a pass: ${total} tokens, the context holds ${this.config.contextLength}`);
  }
}
