import { LRUCache } from "lru-cache";
import { IdempotencyMismatchError } from "../errors.ts";
import type { AnswerStream } from "./answer_stream.ts";

/** Options of {@linkcode IdempotencyKeys}. Limits are per tenant, so that none pushes out another's. */
export interface IdempotencyOptions {
  /** @default 1000 */
  maxEntries?: number;
  /**
   * Bytes of all kept answers. A stream is kept whole up to half of them; of a longer one only its end can be read
   * again, and whoever asks for it all gets 410 with the text before. What is larger than all of them is not kept, and
   * the same request runs again.
   * @default 16 MiB
   */
  maxBytes?: number;
  /** How long a complete answer is kept, in milliseconds. @default 3_600_000, an hour */
  ttlMs?: number;
}

interface Entry {
  /** Of the request that it answers. */
  fingerprint: string;
  stream: AnswerStream;
}

interface TenantKeys {
  running: Map<string, Entry>;
  complete: LRUCache<string, Entry>;
}

/** What a key and a few numbers cost, in bytes. */
const ENTRY_BYTES = 512;

/**
 * Answers by `Idempotency-Key`, those still running and those complete. One that failed is forgotten where
 * nothing of it was committed: the same request may be made again. In memory only.
 */
export class IdempotencyKeys {
  readonly #tenants = new Map<string, TenantKeys>();
  readonly #options: Required<IdempotencyOptions>;

  constructor(options: IdempotencyOptions = {}) {
    this.#options = { maxEntries: 1000, maxBytes: 16 * 2 ** 20, ttlMs: 3600_000, ...options };
  }

  /**
   * The answer to the request that had this key.
   * @throws {IdempotencyMismatchError} when that was another request
   */
  find(tenant: string, key: string, fingerprint: string): AnswerStream | undefined {
    const keys = this.#tenants.get(tenant);
    const entry = keys?.running.get(key) ?? keys?.complete.get(key);
    if (entry && entry.fingerprint !== fingerprint) throw new IdempotencyMismatchError(key);
    return entry?.stream;
  }

  add(key: string, fingerprint: string, stream: AnswerStream): void {
    const { running, complete } = this.#of(stream.tenant);
    const entry = { fingerprint, stream };
    running.set(key, entry);
    // The other half is for what the text before it takes, and what no reader has taken yet.
    stream.keepAtLeast(this.#options.maxBytes / 2);
    stream.over.then((isComplete) => {
      if (running.get(key) !== entry) return;
      running.delete(key);
      if (isComplete || stream.committed) complete.set(key, entry, { size: stream.bytes + ENTRY_BYTES });
    });
  }

  /** Forgets all answers of a session. */
  forget(tenant: string, sessionId: string): void {
    const keys = this.#tenants.get(tenant);
    for (const entries of [keys?.running, keys?.complete]) {
      for (const [key, { stream }] of [...entries?.entries() ?? []]) {
        if (stream.sessionId === sessionId) entries!.delete(key);
      }
    }
  }

  #of(tenant: string): TenantKeys {
    const known = this.#tenants.get(tenant);
    if (known) return known;
    const { maxEntries, maxBytes, ttlMs } = this.#options;
    const keys: TenantKeys = {
      running: new Map(),
      complete: new LRUCache({ max: maxEntries, maxSize: maxBytes, ttl: ttlMs, ttlAutopurge: true }),
    };
    this.#tenants.set(tenant, keys);
    return keys;
  }
}
