import { SessionKv } from "./session_kv.ts";
import { Transcript } from "./transcript.ts";
import { TurnLock } from "./turn_lock.ts";

/** Whose session, and which. */
export interface SessionName {
  tenant: string;
  id: string;
}

/** Tenant of callers that name none. */
export const DEFAULT_TENANT = "default";

/**
 * One conversation: a durable transcript and KV that may go between turns. Change it only while holding `lock`.
 *
 * Invariant between turns: `kv.ids` is a prefix of `transcript.ids`.
 */
export class Session {
  readonly transcript: Transcript = new Transcript();
  readonly kv: SessionKv = new SessionKv();
  readonly lock: TurnLock;
  /** Where its files are, and its key in the store. */
  readonly key: string;
  readonly createdAt: number;
  /** Lifetime after each change, in milliseconds; the store's own when absent. */
  ttlMs: number | undefined;
  /** When it expires, in milliseconds since 1970, unless a turn runs then. */
  expiresAt = Infinity;
  /** Whether the store has let go of it: nothing of it is kept once the running turn ends. */
  closed = false;
  /** Whether it stays without a turn: it was created, or a turn was committed. */
  established = false;

  /** @param name `undefined` for a single call that keeps nothing */
  constructor(readonly name: SessionName | undefined, options: { key?: string; createdAt?: number } = {}) {
    this.lock = new TurnLock(name?.id ?? "");
    this.key = options.key ?? "";
    this.createdAt = options.createdAt ?? Date.now();
  }

  /** Committed turns. */
  get turn(): number {
    return this.transcript.turns.length;
  }
}
