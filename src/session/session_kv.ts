import type { KvCache } from "../kv/kv_cache.ts";

/** Where a session's KV is: in the backend, in host memory, in a file, nowhere. */
export type KvState = "hot" | "warm" | "parked" | "cold";

/** KV outside the backend, as `Backend.exportKv` gave it. */
export interface ParkedKv {
  /** Tokens it holds; the session may use fewer. */
  tokens: number;
  byteLength: number;
  /** Of the ids of these tokens, in hex: says which file it is. Where it is in one. */
  idsSha256?: string;
  /** The bytes, while in host memory. Never changed, so sessions may share them. */
  data?: Uint8Array;
}

/**
 * A session's KV. In the backend or parked, never both; what was parked and restored is parked no more.
 *
 * Between turns `ids` is a prefix of the session's transcript. While a turn runs, the cache may hold more than `ids`:
 * drafts, steps that followed a token, or what a failed pass left.
 */
export class SessionKv {
  /** Tokens whose KV is known to be held, in order. */
  readonly ids: number[] = [];
  /** Owned; `undefined` unless hot. */
  cache: KvCache | undefined;
  /** Set by the tiers only, which count it. */
  parked: ParkedKv | undefined;

  get state(): KvState {
    if (this.cache) return this.cache.lost ? "cold" : "hot";
    if (!this.parked) return "cold";
    return this.parked.data ? "warm" : "parked";
  }

  /** Bytes of backend memory. */
  get hotBytes(): number {
    return this.cache?.bytes ?? 0;
  }

  /** Forgets every token from `length` on. */
  truncate(length: number): void {
    if (length >= this.ids.length) return;
    this.ids.length = length;
    if (this.cache && !this.cache.lost) this.cache.truncate(length);
  }

  /** Gives the cache back; what is parked stays. */
  disposeCache(): void {
    this.cache?.dispose();
    this.cache = undefined;
  }
}
