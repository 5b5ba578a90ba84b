import { BackendUnavailableError } from "../errors.ts";
import type { KvCache } from "../kv/kv_cache.ts";
import { joinParts, KV_PART_BYTES, type KvParts, type LendBuffer, lendParts } from "../kv/kv_parts.ts";
import type { ModelConfig } from "../model/model_config.ts";
import type { Backend, BackendInfo, BackendStats, Follow, ForwardOptions, ForwardRow, RowResult } from "./backend.ts";
import type { InferenceThread, StartedThread } from "./inference_thread.ts";
import type { SessionRow } from "./model_session.ts";
import { RemoteKvCache } from "./remote_kv_cache.ts";
import { type RestartOptions, RestartPolicy } from "./restart_policy.ts";

/** What a {@linkcode ThreadBackend} needs to know of its model. */
export interface ThreadBackendOptions {
  config: ModelConfig;
  /** Starts the inference thread and loads the model in it: at first, and whenever a thread died. */
  start(): Promise<StartedThread>;
  info(started: StartedThread): BackendInfo;
  /** Bytes that a cache of so many tokens reserves in the thread. */
  kvBytes(tokens: number, started: StartedThread): number;
  /** How a thread that died is replaced; `false`: not at all. */
  restarts?: RestartOptions | false;
  /** Called when the thread died, whenever it could not be replaced, and when no more tries follow for a while. */
  onCrash?: (error: Error) => void;
}

/** Of all backends: a cache that was made for one and never used may be used by another that takes its place. */
let lastCacheId = 0;

/**
 * A backend whose model lives in an inference thread: checks what comes in, queues passes in order of arrival, and
 * replaces a thread that died. The KV caches of a dead thread are lost.
 */
export class ThreadBackend implements Backend {
  readonly config: ModelConfig;
  readonly info: BackendInfo;
  readonly #options: ThreadBackendOptions;
  #started: StartedThread;
  readonly #restarts: RestartPolicy;
  /** Why no thread is being started now. */
  #resting: BackendUnavailableError | undefined;
  /** Starts one after all. */
  #wanted: (() => void) | undefined;
  readonly #closing = new AbortController();
  /** Settles when the pass in flight and all that wait for it are done. */
  #tail: Promise<unknown> = Promise.resolve();
  /** KV on its way out or in: its parts go between passes. */
  #transfers = 0;

  /** @throws what loading throws */
  static async start(options: ThreadBackendOptions): Promise<ThreadBackend> {
    return new ThreadBackend(options, await options.start());
  }

  private constructor(options: ThreadBackendOptions, started: StartedThread) {
    this.config = options.config;
    this.info = options.info(started);
    this.#options = options;
    this.#restarts = new RestartPolicy(options.restarts || {});
    this.#started = started;
    this.#watch();
  }

  /** The thread of now. */
  get thread(): InferenceThread {
    return this.#started.thread;
  }

  get failure(): Error | undefined {
    return this.#resting ?? this.thread.failure;
  }

  revive(): void {
    this.#wanted?.();
  }

  kvBytes(tokens: number): number {
    return this.#options.kvBytes(tokens, this.#started);
  }

  createKvCache(): RemoteKvCache {
    return new RemoteKvCache(++lastCacheId, this);
  }

  async *exportKv(cache: KvCache): AsyncGenerator<Uint8Array> {
    const kv = this.#own(cache);
    const { length } = kv;
    if (length === 0) return;
    let buffer = this.#partBuffer();
    let last = false;
    this.#transfers++;
    try {
      for (let at = 0; !last;) {
        const part = await this.#queue(async () => {
          kv.assertUsable();
          if (kv.length !== length) throw new TypeError("Cannot go on exporting KV: the cache has changed");
          return await this.thread.export({ type: "export", cacheId: kv.id, length, at, buffer });
        });
        ({ buffer, last } = part);
        yield new Uint8Array(part.buffer, 0, part.count);
        at += part.count;
      }
    } finally {
      this.#transfers--;
    }
  }

  async importKv(parts: KvParts, tokens: number): Promise<KvCache> {
    if (!(Number.isInteger(tokens) && tokens >= 0 && tokens <= this.config.contextLength)) {
      throw new RangeError(`Cannot import KV of ${tokens} tokens: the context holds ${this.config.contextLength}`);
    }
    const cache = this.createKvCache();
    if (tokens === 0) return cache;
    const { thread } = this;
    cache.attach(thread);
    let at = 0;
    const lend: LendBuffer = async (buffer, count, last) =>
      await this.#queue(async () => {
        const request = { type: "import", cacheId: cache.id, length: tokens, at, buffer, count, last } as const;
        at += count;
        return await thread.import(request);
      });
    this.#transfers++;
    try {
      const buffer = this.#partBuffer();
      if (buffer) {
        await lendParts(parts, buffer, lend);
      } else {
        const whole = await joinParts(parts, this.kvBytes(tokens));
        await lend(whole.buffer, whole.length, true);
      }
    } catch (error) {
      cache.dispose();
      throw error;
    } finally {
      this.#transfers--;
    }
    cache.append(tokens);
    return cache;
  }

  /** Room for a part of KV, where it goes in parts. */
  #partBuffer(): ArrayBuffer | undefined {
    const { kvUnit } = this.#started;
    return kvUnit === undefined ? undefined : new ArrayBuffer(Math.max(1, Math.floor(KV_PART_BYTES / kvUnit)) * kvUnit);
  }

  async stats(): Promise<BackendStats> {
    return await this.#queue(() => this.thread.stats());
  }

  async forward(rows: readonly ForwardRow[], { signal }: ForwardOptions = {}): Promise<RowResult[]> {
    this.revive();
    for (const row of rows) this.#check(row);
    const caches = rows.flatMap(({ cache }) => cache ?? []);
    if (new Set(caches).size < caches.length) {
      throw new RangeError("Cannot run a pass: two rows have the same KV cache, wanted one row a sequence");
    }
    return await this.#queue(() => this.#runAll(rows, signal));
  }

  get #closed(): boolean {
    return this.#closing.signal.aborted;
  }

  /** Runs `work` when all that came before is done. */
  #queue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work);
    this.#tail = result.catch(() => {});
    return result;
  }

  #own(cache: KvCache): RemoteKvCache {
    if (!(cache instanceof RemoteKvCache)) throw new TypeError("Cannot use a KV cache that is another backend's");
    cache.assertUsable();
    return cache;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort();
    await this.thread.close();
  }

  /** Replaces each thread that dies. */
  async #watch(): Promise<void> {
    while (!this.#closed) {
      const error = await this.thread.died;
      if (this.#closed) return;
      this.#options.onCrash?.(error);
      if (this.#options.restarts === false) return;
      while (!this.#closed && !await this.#replace());
    }
  }

  /** @returns whether there is another thread */
  async #replace(): Promise<boolean> {
    await this.#pause();
    if (this.#closed) return false;
    let started: StartedThread;
    try {
      started = await this.#options.start();
    } catch (error) {
      this.#options.onCrash?.(error as Error);
      return false;
    }
    this.#started = started;
    // Closed while it loaded: nobody else knows this thread.
    if (this.#closed) await started.thread.close();
    return true;
  }

  /** Waits until the next start may begin. */
  async #pause(): Promise<void> {
    const { afterMs, onDemand } = this.#restarts.next();
    if (onDemand) {
      const [{ message }, { most }, restS] = [this.thread.failure!, this.#restarts, afterMs / 1000];
      this.#resting = new BackendUnavailableError(
        `${message}; starting another came to nothing ${most} times, and is tried again when a request comes in ${restS} s or later`,
      );
      this.#options.onCrash?.(this.#resting);
    }
    const { signal } = this.#closing;
    await sleepUnlessAborted(afterMs, signal);
    if (onDemand && !this.#closed) {
      await new Promise<void>((resolve) => {
        this.#wanted = resolve;
        signal.addEventListener("abort", () => resolve());
      });
    }
    this.#resting = this.#wanted = undefined;
  }

  async #runAll(rows: readonly ForwardRow[], signal: AbortSignal | undefined): Promise<RowResult[]> {
    const results: RowResult[] = [];
    const { rowsPerPass } = this.#started;
    for (let from = 0; from < rows.length; from += rowsPerPass) {
      signal?.throwIfAborted();
      results.push(...await this.#run(rows.slice(from, from + rowsPerPass)));
    }
    return results;
  }

  async #run(rows: readonly ForwardRow[]): Promise<RowResult[]> {
    const sessionRows = rows.map(({ cache, tokenIds, logits = "last", ...wanted }): SessionRow => {
      const kv = cache as RemoteKvCache | undefined;
      // Checked when the call came in, but an earlier pass of the queue may have disposed or filled the cache.
      kv?.assertUsable();
      this.#checkContext(kv, tokenIds.length);
      const { hiddenStates = false, top, ahead, draw, follow, inspect = [] } = wanted;
      const start = kv?.length ?? 0;
      return {
        cacheId: kv?.id,
        start,
        tokenIds: Array.from(tokenIds),
        logits,
        hiddenStates,
        top,
        ahead,
        draw,
        follow: this.#follow(follow, start + tokenIds.length),
        inspect,
      };
    });
    for (const { cache } of rows) (cache as RemoteKvCache | undefined)?.attach(this.thread);
    const results = await this.thread.run(sessionRows);
    this.#restarts.succeeded();
    rows.forEach(({ cache, tokenIds }, i) => {
      (cache as RemoteKvCache | undefined)?.append(tokenIds.length + (results[i]!.followed?.length ?? 0));
    });
    return results;
  }

  /** As many steps as the context holds after `length` tokens; none where a part of KV may wait for them. */
  #follow(follow: Follow | undefined, length: number): Follow | undefined {
    if (!follow || this.#transfers > 0) return undefined;
    return { ...follow, steps: Math.min(follow.steps, this.config.contextLength - length) };
  }

  #check({ cache, tokenIds, logits, top, follow, inspect = [] }: ForwardRow): void {
    if (top !== undefined && !(Number.isInteger(top) && top > 0)) {
      throw new RangeError(`Cannot rank ${top} logits: wanted an integer of 1 or more`);
    }
    if (follow && (!cache || top === undefined || logits === "none")) {
      throw new TypeError("Cannot follow a row: it has to have a cache, and to want its best logit");
    }
    if (inspect.length > 0 && !this.info.inspects) {
      throw new TypeError(`Cannot look into attention: backend ${this.info.name} shows logits and hidden states only`);
    }
    const { numHiddenLayers } = this.config;
    const absent = inspect.find((layer) => !(Number.isInteger(layer) && layer >= 0 && layer < numHiddenLayers));
    if (absent !== undefined) {
      throw new RangeError(`Cannot look into layer ${absent}: the model has 0 to ${numHiddenLayers - 1}`);
    }
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

/** Resolves after a time, or when the signal fires. */
async function sleepUnlessAborted(ms: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setTimeout(resolve, signal.aborted ? 0 : ms);
  signal.addEventListener("abort", () => resolve());
  await promise;
  clearTimeout(timer);
}
