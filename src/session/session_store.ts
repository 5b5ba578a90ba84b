import { LRUCache } from "lru-cache";
import { OutOfMemoryError, SessionBusyError } from "../errors.ts";
import { Session } from "./session.ts";

/** Options of {@linkcode SessionStore}. */
export interface SessionStoreOptions {
  /** Backend memory that the KV of all sessions together may hold. */
  kvBudgetBytes: number;
  /**
   * How long a session lives after its last turn, in milliseconds.
   * @default 1_800_000 (half an hour)
   */
  ttlMs?: number;
  /** Sessions remembered; beyond it the least recently used is forgotten. @default 10_000 */
  maxSessions?: number;
}

/** What the store holds right now. */
export interface SessionStoreStats {
  sessions: number;
  /** Sessions and single calls whose KV is in the backend. */
  hot: number;
  kvBytes: number;
  kvBudgetBytes: number;
  /** KV caches dropped to make room, since the start. */
  evictions: number;
}

/**
 * Sessions by id, with one byte budget over their KV. A session is either idle (in the LRU cache) or has
 * a running turn (in `#running`), never both. Least recently used idle KV goes first when room is needed;
 * an idle session is forgotten after its TTL.
 */
export class SessionStore implements Disposable {
  readonly #idle: LRUCache<string, Session>;
  readonly #running = new Set<Session>();
  /** Bytes promised to running turns. */
  readonly #reserved = new Map<Session, number>();
  readonly #kvBudgetBytes: number;
  readonly #ttlMs: number;
  #evictions = 0;

  constructor(options: SessionStoreOptions) {
    this.#kvBudgetBytes = options.kvBudgetBytes;
    this.#ttlMs = options.ttlMs ?? 30 * 60_000;
    this.#idle = new LRUCache({
      max: options.maxSessions ?? 10_000,
      ttl: this.#ttlMs,
      // KV of a session that nobody asks for again has to go too, so expiry must not wait for a look-up.
      ttlAutopurge: true,
      // A session leaves the idle set to start a turn as well: then its KV stays.
      dispose: (session) => session.busy || session.dropKv(),
    });
  }

  /** The session, if it is remembered; does not count as a use. */
  peek(id: string): Session | undefined {
    return this.#runningById(id) ?? this.#idle.peek(id);
  }

  /**
   * Starts a turn: finds or makes the session and marks it busy. Without an id, a session for this call only.
   * Every `begin` needs its {@linkcode SessionStore.end}.
   * @throws {SessionBusyError} when a turn of the session is running
   */
  begin(id: string | undefined): Session {
    if (id !== undefined && this.#runningById(id)) throw new SessionBusyError(id);
    const session = (id === undefined ? undefined : this.#idle.get(id)) ?? new Session(id);
    session.busy = true;
    this.#running.add(session);
    if (id !== undefined) this.#idle.delete(id);
    return session;
  }

  /**
   * Promises `bytes` of KV to a running turn, evicting idle sessions' KV where needed.
   * @throws {OutOfMemoryError} when running turns hold what is missing, or the budget is smaller than `bytes`
   */
  reserve(session: Session, bytes: number): void {
    const others = sum(this.#reserved.values()) - (this.#reserved.get(session) ?? 0);
    const promised = others + Math.max(bytes, session.bytes);
    if (promised > this.#kvBudgetBytes) {
      throw new OutOfMemoryError(
        `Cannot reserve ${mib(bytes)} of KV memory: the budget is ${mib(this.#kvBudgetBytes)}, ` +
          `and running turns hold ${mib(others)} of it; try again later or ask for fewer tokens`,
      );
    }
    this.#reserved.set(session, promised - others);
    let idleBytes = sum([...this.#idle.values()].map((idle) => idle.bytes));
    for (const idle of this.#idle.rvalues()) {
      if (promised + idleBytes <= this.#kvBudgetBytes) return;
      if (!idle?.kv) continue;
      idleBytes -= idle.bytes;
      idle.dropKv();
      this.#evictions++;
    }
  }

  /**
   * Ends a turn, well or not: the session is idle again, and its memory stays only if it has an id.
   * @param ttlMs lifetime from now on, in milliseconds; the store's own when absent
   */
  end(session: Session, ttlMs: number = this.#ttlMs): void {
    session.busy = false;
    this.#running.delete(session);
    this.#reserved.delete(session);
    if (session.id === undefined || session.closed) session.dropKv();
    else this.#idle.set(session.id, session, { ttl: ttlMs });
  }

  /**
   * Forgets a session. Its memory goes now, or when its running turn ends.
   * @returns whether there was one
   */
  delete(id: string): boolean {
    const running = this.#runningById(id);
    if (running) running.closed = true;
    return this.#idle.delete(id) || running !== undefined;
  }

  stats(): SessionStoreStats {
    const all = [...this.#idle.values(), ...this.#running];
    return {
      sessions: all.filter((session) => session.id !== undefined).length,
      hot: all.filter((session) => session.kv).length,
      kvBytes: sum(all.map((session) => session.bytes)),
      kvBudgetBytes: this.#kvBudgetBytes,
      evictions: this.#evictions,
    };
  }

  /** Forgets all sessions; running turns keep their memory until they end. */
  [Symbol.dispose](): void {
    for (const session of this.#running) session.closed = true;
    this.#idle.clear();
  }

  #runningById(id: string): Session | undefined {
    for (const session of this.#running) if (session.id === id && !session.closed) return session;
    return undefined;
  }
}

const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);
const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
