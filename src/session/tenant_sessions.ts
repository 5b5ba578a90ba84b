import { LRUCache } from "lru-cache";
import type { Session } from "./session.ts";

/** Longest that a timer waits, in milliseconds: one that is to wait for longer goes off at once, again and again. */
const MAX_TIMER_MS = 2 ** 31 - 2;

/** Sessions of one tenant by key. Each is either idle (in an LRU cache, with its TTL) or has a running turn, never both. */
export class TenantSessions {
  readonly #running = new Map<string, Session>();
  readonly #idle: LRUCache<string, Session>;
  readonly #lose: (session: Session, reason: "expired" | "evicted") => void;

  /** @param lose called with an idle session that is here no more, because its time is over or to make room */
  constructor(lose: (session: Session, reason: "expired" | "evicted") => void) {
    this.#lose = lose;
    this.#idle = new LRUCache({
      // Each session has its own.
      ttl: MAX_TIMER_MS,
      // KV of a session that nobody asks for again has to go too, so expiry must not wait for a look-up.
      ttlAutopurge: true,
      // Its timers go off late; until then what is over is ours to find and to forget.
      allowStale: true,
      dispose: (session, _key, reason) => {
        // A session leaves the idle set to start a turn as well, and to be deleted.
        if (reason === "expire" || reason === "evict") lose(session, reason === "expire" ? "expired" : "evicted");
      },
    });
  }

  get size(): number {
    return this.#running.size + this.#idle.size;
  }

  /** A session whose time is not over; does not count as a use. */
  find(key: string): Session | undefined {
    const session = this.#running.get(key) ?? this.#idle.peek(key);
    if (!session || !isOver(session)) return session;
    this.#idle.delete(key);
    this.#lose(session, "expired");
    return undefined;
  }

  /** All whose time is not over, most recently used first. */
  list(): Session[] {
    return [...this.#running.values(), ...this.#idle.values()].filter((session) => !isOver(session));
  }

  /** Takes a session, new or not, whose turn runs from now on. */
  run(session: Session): void {
    this.#running.set(session.key, session);
    this.#idle.delete(session.key);
  }

  /** Takes a session, new or not, as the one that was used last. */
  rest(session: Session): void {
    this.#running.delete(session.key);
    const left = Math.max(1, session.expiresAt - Date.now());
    // 0 is no timer: who lives for so long is found to be over when it is looked for.
    this.#idle.set(session.key, session, { ttl: left < MAX_TIMER_MS ? left : 0 });
  }

  remove(key: string): void {
    this.#running.delete(key);
    this.#idle.delete(key);
  }

  /** Loses the least recently used idle ones, where more than so many are idle. */
  trim(most: number): void {
    while (this.#idle.size > most) this.#idle.pop();
  }

  /** Lets go of all. @returns them */
  clear(): { running: Session[]; idle: Session[] } {
    const all = { running: [...this.#running.values()], idle: [...this.#idle.values()] };
    this.#running.clear();
    this.#idle.clear();
    return all;
  }
}

/** Whether a session's time is over, and no turn holds it. */
export const isOver = ({ expiresAt, lock }: Session): boolean => expiresAt <= Date.now() && !lock.busy;
