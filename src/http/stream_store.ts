import { LRUCache } from "lru-cache";
import { StreamNotFoundError } from "../errors.ts";
import type { AnswerStream } from "./answer_stream.ts";

/** Options of {@linkcode StreamStore}. */
export interface StreamStoreOptions {
  /** How long a stream can be resumed after its end, in milliseconds. @default 60_000 */
  windowMs?: number;
  /** Bytes of all streams that are over. @default 64 MiB */
  maxBytes?: number;
}

/** Streams that can be resumed, by id: those still running, and for a while those that are over. */
export class StreamStore {
  readonly #running = new Map<string, AnswerStream>();
  readonly #over: LRUCache<string, AnswerStream>;

  constructor({ windowMs = 60_000, maxBytes = 64 * 2 ** 20 }: StreamStoreOptions = {}) {
    this.#over = new LRUCache({ maxSize: maxBytes, ttl: windowMs, ttlAutopurge: true });
  }

  add(stream: AnswerStream): void {
    this.#running.set(stream.id, stream);
    stream.over.then(() => {
      if (!this.#running.delete(stream.id)) return;
      if (stream.bytes > 0) this.#over.set(stream.id, stream, { size: stream.bytes });
    });
  }

  /**
   * The tenant's stream of that id.
   * @throws {StreamNotFoundError}
   */
  get(tenant: string, id: string): AnswerStream {
    const stream = this.#running.get(id) ?? this.#over.get(id);
    if (stream?.tenant !== tenant) throw new StreamNotFoundError(id);
    return stream;
  }

  /** Streams that are kept, and their bytes. */
  get held(): { streams: number; bytes: number } {
    const running = [...this.#running.values()];
    return {
      streams: running.length + this.#over.size,
      bytes: running.reduce((sum, { bytes }) => sum + bytes, this.#over.calculatedSize),
    };
  }

  /** Forgets all streams of a session; who reads one goes on. */
  forget(tenant: string, sessionId: string): void {
    for (const streams of [this.#running, this.#over]) {
      for (const [id, stream] of [...streams.entries()]) {
        if (stream.tenant === tenant && stream.sessionId === sessionId) streams.delete(id);
      }
    }
  }
}
