import type { KvCache } from "../kv/kv_cache.ts";

/** An answer as it was sampled. Kept because encoding its text again may give other ids. */
export interface StoredReply {
  text: string;
  ids: readonly number[];
}

/**
 * One conversation. The KV cache is evictable at any time between turns; what is lost is time, not words.
 *
 * Invariant between turns: `cachedIds` are exactly the tokens whose KV is held,
 * so `cachedIds.length === (kv?.length ?? 0)`.
 */
export class Session {
  /** Tokens whose keys and values are in `kv`, in order. */
  cachedIds: number[] = [];
  /** Owned by the session; `undefined` while it holds no KV. */
  kv: KvCache | undefined;
  /** Answers by their place among the conversation's assistant messages, 0 for the first. */
  readonly replies: Map<number, StoredReply> = new Map();
  /** Whether a turn is running. */
  busy = false;
  /** Set while a cancelled turn finishes its last forward pass: resolves when the session is idle. */
  ending: Promise<void> | undefined;
  /** Turns that ended well. */
  turns = 0;
  /** Whether the store has let go of it: its memory goes when the running turn ends. */
  closed = false;

  /** @param id the caller's name for it; `undefined` for a single call that keeps nothing */
  constructor(readonly id: string | undefined) {}

  /** Bytes of backend memory held. */
  get bytes(): number {
    return this.kv?.bytes ?? 0;
  }

  /** Gives the KV memory back and forgets what was in it. The replies stay. */
  dropKv(): void {
    this.kv?.dispose();
    this.kv = undefined;
    this.cachedIds = [];
  }
}
