import { BackendUnavailableError } from "../errors.ts";
import type { KvCache } from "../kv/kv_cache.ts";
import type { KvParts } from "../kv/kv_parts.ts";
import type { Backend, BackendInfo, BackendStats, ForwardOptions, ForwardRow, RowResult } from "./backend.ts";

/**
 * A backend that may go away for good, as a GPU may, and one that is started when it does. KV caches of the first are
 * lost then, and KV that it exported is not taken any more: it is of another arithmetic. Whoever hears first that the
 * first is gone calls `recover`.
 */
export class FallbackBackend implements Backend {
  readonly #first: Backend;
  readonly #startSecond: (reason: string) => Promise<Backend>;
  #second: Promise<Backend> | undefined;
  #current: Backend;
  #closed = false;

  /** @param startSecond called at most once, with why it is needed */
  constructor(first: Backend, startSecond: (reason: string) => Promise<Backend>) {
    this.#first = first;
    this.#current = first;
    this.#startSecond = startSecond;
  }

  get info(): BackendInfo {
    return this.#current.info;
  }

  get failure(): Error | undefined {
    return this.#current.failure;
  }

  async recover(): Promise<BackendInfo | undefined> {
    const { failure } = this.#first;
    if (!failure || this.#closed) return undefined;
    const backend = await this.#goOn(failure);
    return backend.failure ? undefined : backend.info;
  }

  revive(): void {
    this.#current.revive?.();
  }

  createKvCache(): KvCache {
    return this.#current.createKvCache();
  }

  async *exportKv(cache: KvCache): AsyncIterable<Uint8Array> {
    this.#requireFirst("export");
    yield* this.#first.exportKv(cache);
  }

  async importKv(parts: KvParts, tokens: number): Promise<KvCache> {
    this.#requireFirst("import");
    return await this.#first.importKv(parts, tokens);
  }

  async stats(): Promise<BackendStats> {
    return await this.#current.stats();
  }

  kvBytes(tokens: number): number {
    return this.#current.kvBytes(tokens);
  }

  async forward(rows: readonly ForwardRow[], options?: ForwardOptions): Promise<RowResult[]> {
    if (this.#second) await this.#second;
    return await this.#current.forward(rows, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#first[Symbol.asyncDispose]();
    const second = await this.#second?.catch(() => undefined);
    await second?.[Symbol.asyncDispose]();
  }

  async #goOn(failure: Error): Promise<Backend> {
    this.#second ??= this.#startSecond(`after ${this.#first.info.name} failed: ${failure.message}`);
    return this.#current = await this.#second;
  }

  #requireFirst(action: string): void {
    if (this.#current === this.#first) return;
    throw new BackendUnavailableError(
      `Cannot ${action} KV: ${this.#first.info.name} is gone, and ${this.#current.info.name} has other arithmetic`,
    );
  }
}
